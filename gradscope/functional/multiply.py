"""A gradient times a real number, exact where it can be."""

import torch
from torch import Tensor

__all__ = ["times"]


def times(gradient: Tensor, factor: float) -> Tensor:
    """Return ``factor * gradient``, shape and dtype as given.

    A factor of 1 returns the gradient itself, also where the CPU flushes subnormals. Of complex numbers
    both parts are multiplied: torch would multiply by ``factor + 0j``, which loses signs of zeros and
    turns an infinite part into NaN.
    """
    if factor == 1.0:
        return gradient
    if gradient.is_complex():
        return torch.complex(gradient.real * factor, gradient.imag * factor)
    return gradient * factor
