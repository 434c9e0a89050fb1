"""A program of the set: a model, its optimizers and its loss; and how it is run and judged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

import gradscope
from gradscope.findings import Finding

__all__ = ["Parts", "Program", "Sick", "run"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What one training needs.

    loss: the loss of a step, by its number. optimizers: in the order in which they step.
    each: called at the beginning of each step. zeroes: whether gradients are zeroed before each step.
    """

    model: nn.Module
    optimizers: Sequence[Optimizer]
    loss: Callable[[int], Tensor]
    each: Callable[[int], object] = lambda _step: None
    zeroes: bool = True


@dataclass(frozen=True, slots=True)
class Program:
    """A sound program: nothing may be found in it but hints."""

    name: str
    make: Callable[[], Parts]


@dataclass(frozen=True, slots=True)
class Sick:
    """A program with a fault, if `make(True)`, and its repaired twin.

    codes: the findings that name this fault. layers: one of them must be the first layer of the finding;
    empty if the fault has no layer.
    """

    name: str
    codes: frozenset[str]
    layers: frozenset[str]
    make: Callable[[bool], Parts]


def run(parts: Parts, steps: int) -> tuple[Finding, ...]:
    """Train with gradscope's defaults; return the findings. Raises RuntimeError if gradscope failed."""
    with gradscope.attach(parts.model, hub=None, record=False, quiet=True) as scope:
        for step in range(steps):
            parts.each(step)
            if parts.zeroes:
                for optimizer in parts.optimizers:
                    optimizer.zero_grad()
            loss = parts.loss(step)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            for optimizer in parts.optimizers:
                optimizer.step()
            scope.log(loss=loss.detach())
        if scope.faults:
            raise RuntimeError(scope.faults)
        return scope.findings


def seeded() -> None:
    """Make the next program start from the same random state."""
    torch.manual_seed(0)
