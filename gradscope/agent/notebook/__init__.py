"""What a scope does in a notebook: its table as HTML, plots, and the cells that train."""
