"""Forwards the numbers and findings of a run to a tracker, from a process beside the training."""

from gradscope.trackers.forwarding import Destination, forward

__all__ = ["Destination", "forward"]
