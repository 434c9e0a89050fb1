"""`CopiesProbe`: finds optimizers that update copies of a model's parameters which are never written back."""

from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from gradscope.agent.diagnosis.tensor_reads import is_readable, sampled, wide
from gradscope.hooks import parameters_of

__all__ = ["CopiesProbe"]

_ELEMENTS: Final = 64
_PARAMETERS: Final = 64


class CopiesProbe:
    """Keeps samples of the trainable parameters from the beginning of the run on. Reads more only in a suspicion."""

    def __init__(self, model: nn.Module | None) -> None:
        self._first = [] if model is None else _samples(_trainable(model))

    def unwritten(self, model: nn.Module, optimizers: Iterable[Optimizer]) -> set[int]:
        """Return the ids of the optimizers with a copy of each parameter that differs from a model that never changed.

        The copies must be near the parameters, so that another model of the same shapes is none.
        """
        mine = _trainable(model)
        ids, shapes = set(map(id, mine)), [parameter.shape for parameter in mine]
        suspects = [
            each
            for each in optimizers
            if self._first
            and [tensor.shape for tensor in parameters_of(each)] == shapes
            and not ids.intersection(map(id, parameters_of(each)))
        ]
        if not suspects:
            return set()
        now = _samples(mine)
        if len(now) != len(self._first) or not _are_equal(now, self._first):
            return set()
        return {id(each) for each in suspects if _are_moved(_samples(parameters_of(each)), now)}


def _trainable(model: nn.Module) -> list[torch.Tensor]:
    return [each for each in model.parameters() if each.requires_grad and not is_lazy(each)]


def _samples(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return copies of a few elements of the first tensors; nothing if one of them cannot be read."""
    first = tensors[:_PARAMETERS]
    if not all(map(is_readable, first)):
        return []
    return [sampled(each, _ELEMENTS).clone() for each in first]


def _are_equal(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def _are_moved(copies: Sequence[torch.Tensor], now: Sequence[torch.Tensor]) -> bool:
    """Return whether copies differ from the parameters after rounding to their format, by less than their size."""
    if len(copies) != len(now) or any(a.device != b.device for a, b in zip(copies, now, strict=True)):
        return False
    if _are_equal([a.to(b.dtype) for a, b in zip(copies, now, strict=True)], now):
        return False
    apart = sum(float((wide(a) - wide(b)).square().sum()) for a, b in zip(copies, now, strict=True))
    return apart < sum(float(wide(each).square().sum()) for each in now)
