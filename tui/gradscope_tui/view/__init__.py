"""From the store's numbers to text and roles: no Textual, no colours, tested as values."""
