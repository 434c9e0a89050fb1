"""The agent's end of the link: publisher thread, messages, logged scalars, crash reports."""
