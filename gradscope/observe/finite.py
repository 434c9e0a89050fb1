"""Which tensors hold a NaN or an infinity: one quick look at many, whatever the step."""

import math
from collections.abc import Sequence

import torch
from torch._subclasses.fake_tensor import FakeTensor

from gradscope.observe.native import native_module

__all__ = ["find_nonfinite", "has_numbers"]


def find_nonfinite(tensors: list[torch.Tensor]) -> list[int]:
    """Return the places of those tensors on the host that are not finite throughout. Changes nothing.

    The native pass reads bits; without it, a norm shows a NaN or an infinity, and overflows for very
    large numbers. Whatever looks suspicious, or could not be read so, is looked at element by element.
    """
    with torch.no_grad():
        native = native_module()
        places = _suspects(tensors) if native is None else native.find_suspects(tensors)
        return [place for place in places if not bool(torch.isfinite(tensors[place]).all())]


def has_numbers(tensor: torch.Tensor) -> bool:
    """Whether a tensor has numbers of its own: a meta or a fake one has only a shape."""
    return not (tensor.is_meta or isinstance(tensor, FakeTensor))


def _suspects(tensors: list[torch.Tensor]) -> Sequence[int]:
    norms = torch._foreach_norm(tensors)  # noqa: SLF001 - what torch's own clipping uses
    return () if math.isfinite(sum(norm.item() for norm in norms)) else range(len(tensors))
