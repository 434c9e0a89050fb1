"""`Case`: one row of a table of cases; and the training loop that most of them share."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from trials.reference import tensors_in
from trials.trial import Trial

__all__ = ["Case", "loss_of", "train", "trained"]


@dataclass(frozen=True)
class Case:
    """A name that says what is nasty, what to run, and what gradscope is to say about it, if anything.

    not_measured: (layer, kind) of the rows for which the reference has numbers and gradscope is to say
    that it has none. told: the parts in which it is to tell a person something, and nothing else.
    """

    name: str
    run: Callable[[Trial], None]
    not_measured: frozenset[tuple[str, str]] = frozenset()
    told: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.name


def loss_of(output: object) -> torch.Tensor:
    """Return a loss in which every element of every tensor of an output has its own weight."""
    total = torch.zeros(())
    for _, tensor in tensors_in(output):
        if tensor.requires_grad and tensor.numel():
            dense = _dense(tensor)
            real = torch.view_as_real(dense) if dense.is_complex() else dense
            weights = torch.linspace(0.5, 1.5, real.numel(), dtype=real.dtype).view(real.shape)
            total = total + (real * weights).square().mean()
    return total


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_nested:
        return torch.cat([part.reshape(-1) for part in tensor.unbind()])
    return tensor.to_dense() if tensor.layout is not torch.strided else tensor


def train(t: Trial, model, batches, optimizer=None, *, forward=None, recomputes_twice=False) -> None:
    """Train a watched model: forward, loss, backward, step; keep output and loss of each."""
    if optimizer is None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for batch in batches:
        optimizer.zero_grad()
        output = forward(batch) if forward is not None else model(batch)
        loss = loss_of(output)
        t.backward(loss, recomputes_twice=recomputes_twice)
        t.step(optimizer)
        t.keep(output=output, loss=loss)


def trained(
    make_model, make_batch, *, steps=3, optimizer=None, before=None, reference=True
) -> Callable[[Trial], None]:
    """Return a case that makes a model, watches it and trains it for some steps."""

    def run(t: Trial) -> None:
        model = make_model()
        if before is not None:
            before(model)
        if not reference:
            t.without_reference()
        t.watch(model)
        chosen = optimizer(model.parameters()) if optimizer is not None else None
        train(t, model, [make_batch() for _ in range(steps)], chosen)

    return run
