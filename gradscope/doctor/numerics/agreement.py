"""Compares the tensors of two runs up to rounding errors."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["agree"]


def agree(a: Sequence[Tensor | None], b: Sequence[Tensor | None], *, roundings: float) -> bool:
    """Return whether two sequences of tensors have the same values, up to rounding errors.

    roundings: the tolerance, in units of eps times the largest element of all tensors in `a`. The
    largest element of all
        tensors is used because a gradient can be a rounding error of the others: the gradient of a bias before a
        normalisation, for example, is 0 up to rounding.

    NaN equals NaN, and None equals None.
    """
    largest = max((_largest(t) for t in a if t is not None), default=0.0)
    return len(a) == len(b) and all(
        _is_same(x, y, largest, roundings) for x, y in zip(a, b, strict=True)
    )


def _is_same(x: Tensor | None, y: Tensor | None, largest: float, roundings: float) -> bool:
    if x is None or y is None:
        return x is y
    rtol = roundings * torch.finfo(x.dtype).eps
    is_alike = x.shape == y.shape and x.dtype == y.dtype
    return is_alike and torch.allclose(x, y, rtol=rtol, atol=rtol * largest, equal_nan=True)


def _largest(tensor: Tensor) -> float:
    finite = tensor.detach().abs().nan_to_num(0, 0, 0)
    return float(finite.max()) if tensor.numel() else 0.0
