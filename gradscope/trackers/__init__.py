"""Forwards the numbers and findings of a run to a tracker, from a process next to the training."""

from gradscope.trackers.forwarding import Destination, forward, forward_recorded

__all__ = ["Destination", "forward", "forward_recorded"]
