"""Commands from viewers: validation, queue, agreement of all ranks."""
