"""Multiplies a gradient by a real number."""

import torch
from torch import Tensor

__all__ = ["times"]


def times(gradient: Tensor, factor: float) -> Tensor:
    """Return ``factor * gradient``, with the same shape and dtype.

    If factor is 1, the gradient itself is returned, so that a CPU that flushes subnormals does not change
    it. For complex tensors, both parts are multiplied: torch would multiply by ``factor + 0j``, which loses
    the signs of zeros and turns an infinite part into NaN.
    """
    if factor == 1.0:
        return gradient
    if gradient.is_complex():
        return torch.complex(gradient.real * factor, gradient.imag * factor)
    return gradient * factor
