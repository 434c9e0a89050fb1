"""Inspection of a run: captured tensors, snapshot, focus, memory and time, custom autograd Functions."""
