"""torch.compile: observes compiled forwards, and excludes functions and models from compilation."""
