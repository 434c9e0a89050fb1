"""Commands from viewers: validation, queue, consensus of ranks."""
