"""Reductions on CUDA devices, with Triton kernels or PyTorch operations."""
