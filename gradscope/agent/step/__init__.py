"""The step engine: hooks, step boundaries, plugins, idle steps."""
