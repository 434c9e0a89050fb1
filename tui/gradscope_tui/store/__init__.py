"""The data behind the screen, taken from messages and kept in NumPy rings. Nothing here uses Textual."""
