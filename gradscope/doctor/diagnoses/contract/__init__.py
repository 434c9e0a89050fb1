"""Diagnoses of the contract of `torch.autograd.Function`: what forward and backward must accept, return and not modify."""
