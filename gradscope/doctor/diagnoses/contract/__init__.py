"""Diagnoses of the contract of `torch.autograd.Function`: what it must accept, return and not modify."""
