"""Functions from the store's numbers to cells: text and roles, without Textual and colours."""
