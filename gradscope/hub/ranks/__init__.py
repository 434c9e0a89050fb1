"""The ranks of one run at the hub: the same step of all, merged rows, how each is doing, equal parameters."""
