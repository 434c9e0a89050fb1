"""A program of the set: a model, its optimizers and its loss; and how it is trained, watched or not."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

import gradscope
from benchmarks.faults.data import Batch
from gradscope.findings import Finding

__all__ = ["Parts", "Program", "Sick", "seed", "sick", "train", "train_step", "watch"]


@dataclass(frozen=True, slots=True)
class Parts:
    """What one training needs.

    loss: the loss of a step, by its number. optimizers: in the order in which they step.
    before, after: called at the beginning and at the end of each step.
    zeroes: whether gradients are zeroed before each step.
    step: replaces the whole step, with backward and optimizers, and returns the loss that is logged.
    measure: the number by which the program proves its fault, taken after the training.
    """

    model: nn.Module
    optimizers: Sequence[Optimizer]
    loss: Callable[[int], Tensor] | None = None
    before: Callable[[int], object] | None = None
    after: Callable[[int], object] | None = None
    zeroes: bool = True
    step: Callable[[int], Tensor] | None = None
    measure: Callable[[], float] | None = None


@dataclass(frozen=True, slots=True)
class Program:
    """A sound program: only hints may be found in it."""

    name: str
    make: Callable[[], Parts]


@dataclass(frozen=True, slots=True)
class Sick:
    """A program with a fault, if `make(True)`, and its repaired twin.

    codes: the findings that name this fault. layers: one of them must be the first layer of the finding;
    empty if the fault has no layer. proof: a plain measurement of both (`proofs.py`).
    """

    name: str
    codes: frozenset[str]
    layers: frozenset[str]
    make: Callable[[bool], Parts]
    proof: "Proof"


@dataclass(frozen=True, slots=True)
class Proof:
    """A number that is measured in the sick program and in its twin, and whether it shows the fault."""

    what: str
    measure: Callable[[Parts, int], float]
    holds: Callable[[float, float], bool]


def sick(name: str, codes: str, layers: str, make: Callable[[bool], Parts], proof: Proof) -> Sick:
    """Return a sick program; codes and layers are separated by spaces; "model" is the model itself."""
    places = frozenset("" if each == "model" else each for each in layers.split())
    return Sick(name, frozenset(codes.split()), places, make, proof)


def train(
    model: nn.Module,
    data: Callable[[], Batch],
    criterion: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    optimizer: Optimizer | None = None,
    **parts: object,
) -> Parts:
    """Return a training of one model on one task with one optimizer, Adam by default."""

    def loss(_step: int) -> Tensor:
        x, y = data()
        return criterion(model(x), y)

    return Parts(model, [optimizer or Adam(model.parameters(), 3e-3)], loss, **parts)


def train_step(parts: Parts, step: int) -> Tensor:
    """Train for one step. Return its loss, detached."""
    if parts.before is not None:
        parts.before(step)
    if parts.step is not None:
        loss = parts.step(step)
    elif parts.loss is None:
        raise TypeError("Parts needs a loss or a step")
    else:
        if parts.zeroes:
            for optimizer in parts.optimizers:
                optimizer.zero_grad()
        loss = parts.loss(step)
        loss.backward()
        for optimizer in parts.optimizers:
            optimizer.step()
    if parts.after is not None:
        parts.after(step)
    return loss.detach()


def watch(parts: Parts, steps: int) -> tuple[Finding, ...]:
    """Train with gradscope's defaults; return the findings. Raises RuntimeError if gradscope failed."""
    with gradscope.attach(parts.model, hub=None, record=False, quiet=True) as scope:
        for step in range(steps):
            scope.log(loss=train_step(parts, step))
        if scope.faults:
            raise RuntimeError(scope.faults)
        return scope.findings


def seed() -> None:
    """Make the next program start from the same random state, on one thread; PyTorch's warnings are silent."""
    warnings.simplefilter("ignore")  # PyTorch warns about some of the faults
    torch.set_num_threads(1)
    torch.manual_seed(0)
