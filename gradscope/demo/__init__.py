"""The training script of `gradscope demo`: a small GPT that learns Python's own help texts."""
