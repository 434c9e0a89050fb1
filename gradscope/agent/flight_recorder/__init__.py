"""Traces a NaN or infinity to the operation and the source line in which it arises."""
