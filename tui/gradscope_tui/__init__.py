"""The terminal user interface of gradscope."""
