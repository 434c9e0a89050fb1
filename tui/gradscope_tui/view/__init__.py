"""Functions that convert the store's numbers to cells. Nothing here uses Textual or colours."""
