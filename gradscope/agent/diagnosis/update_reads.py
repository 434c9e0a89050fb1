"""`UpdateReads`: how large the updates of an optimizer are, and which are rounded away, on samples of parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.agent.diagnosis.tensor_reads import is_readable, sampled, wide
from gradscope.findings.signal_facts import LayerUpdates

__all__ = ["UpdateReads"]

_ELEMENTS: Final = 512
_PARAMETERS: Final = 64
"""How many elements are read of a parameter, and of how many parameters, the largest first."""

_QUANTUM: Final = 2.0**24
"""The inverse of the least positive number of float16. Gradients that passed through float16 are multiples of it."""
_SHORT: Final = 2.0**-17
"""Below this float16 has less than 8 of its 11 bits, less than bfloat16."""

_DTYPES: Final = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(slots=True)
class _Reading:
    """Samples of a parameter before its optimizer steps."""

    name: str
    parameter: nn.Parameter
    before: torch.Tensor
    gradient: torch.Tensor
    learning_rate: float
    largest: float
    is_plain_descent: bool
    arrives_later: bool
    counts: torch.Tensor | None = None


class UpdateReads:
    """Reads in steps chosen by the caller: `before` and `after` around each optimizer's step, then `end`."""

    def __init__(self) -> None:
        self._readings: list[_Reading] = []
        self._largest: dict[str, float] = {}
        self._first: dict[str, float] = {}
        """The norms of the samples before the first update that was read."""

    def before(self, optimizer: Optimizer, names: Mapping[int, str]) -> None:
        """Copy samples of the parameters that have a gradient. names: of the model's parameters, by their id."""
        found = [
            (parameter, group)
            for group in optimizer.param_groups
            for parameter in group["params"]
            if id(parameter) in names
            and parameter.dtype in _DTYPES
            and is_readable(parameter)
            and is_readable(parameter.grad)
        ]
        found.sort(key=lambda each: -each[0].numel())
        for parameter, group in found[:_PARAMETERS]:
            name, rate = names[id(parameter)], float(group.get("lr", 0.0))
            self._largest[name] = largest = max(rate, self._largest.get(name, 0.0))
            if rate > 0:
                self._readings.append(
                    _Reading(
                        name,
                        parameter,
                        sampled(parameter, _ELEMENTS).clone(),
                        sampled(parameter.grad, _ELEMENTS).clone(),
                        rate,
                        largest,
                        is_plain_descent=type(optimizer).__name__ == "SGD"
                        and parameter.dtype is not torch.float32,
                        arrives_later=not type(optimizer).__module__.startswith("torch.optim"),
                    )
                )

    def after(self) -> None:
        """Compare the parameters with their samples. Does not wait for the device."""
        for each in self._readings:
            if each.counts is None:
                each.counts = _count(each)

    def end(self) -> tuple[LayerUpdates, ...]:
        """Return what was read. Waits for the device."""
        facts = tuple(_facts(each, self._first) for each in self._readings if each.counts is not None)
        self._readings.clear()
        return facts


def _count(reading: _Reading) -> torch.Tensor:
    """Return how many sampled elements have a gradient, how many are lost, how many are short, and two norms.

    Lost: rounding has kept the element where it was. Short: the gradient has lost digits in float16. The norms are
    those of the sample before the update, and of the update.

    The step of an element is about the learning rate with adaptive optimizers, and the learning rate times the
    gradient with SGD; in float32 the learning rate for both, because tiny gradients are another fault. The spacing
    of its number format is at most its magnitude times the relative precision.
    """
    now, before, gradient = (
        sampled(reading.parameter, _ELEMENTS),
        wide(reading.before),
        wide(reading.gradient),
    )
    moves = (gradient != 0) & gradient.isfinite()
    step = gradient.abs() * reading.learning_rate if reading.is_plain_descent else reading.learning_rate
    is_below = before.abs() * torch.finfo(now.dtype).eps >= step
    lost = moves & (now == reading.before) & is_below
    norms = torch.stack([before.norm(), (wide(now) - before).norm()])
    quanta = gradient * _QUANTUM
    is_half = (quanta == quanta.round()).all() & (reading.gradient.dtype != torch.bfloat16)
    short = moves & is_half & (gradient.abs() < _SHORT)
    return torch.cat([torch.stack([moves.sum(), lost.sum(), short.sum()]).to(norms.dtype), norms])


def _facts(reading: _Reading, first: dict[str, float]) -> LayerUpdates:
    moving, lost, short, before, update = (
        [0.0] * 5 if reading.counts is None else reading.counts.tolist()
    )
    size = first.setdefault(reading.name, before)
    layer, _, name = reading.name.rpartition(".")
    return LayerUpdates(
        layer=layer,
        name=name,
        dtype=str(reading.before.dtype).removeprefix("torch."),
        elements=reading.parameter.numel(),
        moving=int(moving),
        lost=int(lost),
        learning_rate=reading.learning_rate,
        largest_learning_rate=reading.largest,
        arrives_later=reading.arrives_later,
        change=update / size if size > 0 else 0.0,
        underflown=int(short),
        sampled=reading.before.numel(),
    )
