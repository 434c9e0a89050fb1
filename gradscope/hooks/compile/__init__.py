"""torch.compile: observing compiled forwards, and keeping functions and models out of compilation."""
