"""Checkpointing: forwards that are computed a second time inside of a backward pass."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential
from trials import Case, Trial
from trials.case import loss_of, train

from cases.models import rows

__all__ = ["CASES"]

KINDS = (("reentrant", True), ("not reentrant", False))


class Checkpointed(nn.Module):
    """Computes its block again in backward; in the reference run it does not, with the same values.

    wrap: a function of (again, block, x); `again(block, x, is_reentrant=…)` is the checkpoint.
    """

    def __init__(self, t: Trial, wrap) -> None:
        super().__init__()
        self.before = nn.Linear(6, 6)
        self.block = nn.Sequential(
            nn.Linear(6, 6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 6), nn.Tanh()
        )
        self.wrap = wrap
        self.again = once if t.is_reference else again

    def forward(self, x):
        return self.wrap(self.again, self.block, self.before(x))


def again(block, *inputs, is_reentrant):
    return checkpoint(block, *inputs, use_reentrant=is_reentrant)


def once(block, *inputs, is_reentrant):
    return block(*inputs)


def checkpointed(wrap, *, accumulated=1):
    def run(t: Trial) -> None:
        model = t.watch(Checkpointed(t, wrap))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            for _ in range(accumulated):
                output = model(rows())
                loss_of(output).backward()
                t.keep(output)
            t.step(optimizer)
            optimizer.zero_grad()

    return run


class HandsThrough(nn.Module):
    """Returns one of its inputs beside what it computes, as T5 does with its position bias."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x, bias):
        return torch.tanh(self.linear(x)) + bias, bias


def handed_through(is_reentrant):
    """Return a case; a reentrant checkpoint cuts the graph, so that there the reference has it too."""

    class Model(nn.Module):
        def __init__(self, t: Trial) -> None:
            super().__init__()
            self.bias, self.hands = nn.Linear(6, 6), nn.ModuleList([HandsThrough(), HandsThrough()])
            self.again = once if t.is_reference and not is_reentrant else again

        def forward(self, x):
            bias = self.bias(x)
            for hands in self.hands:
                x, bias = self.again(hands, x, bias, is_reentrant=is_reentrant)
            return x * bias

    return lambda t: train(t, t.watch(Model(t)), [rows(), rows()])


def plainly(is_reentrant):
    return lambda again, block, x: again(block, x, is_reentrant=is_reentrant)


def nested(outer, inner):
    """Return a wrapper with a checkpoint inside of a checkpoint, each reentrant or not."""
    return lambda again, block, x: again(
        lambda y: again(block, y, is_reentrant=inner), x, is_reentrant=outer
    )


def nested_with_more(outer, inner):
    """Return a wrapper as `nested`, in which the outer checkpoint also saves tensors of its own."""
    return lambda again, block, x: again(
        lambda y: again(block, y.sin(), is_reentrant=inner).tanh(), x, is_reentrant=outer
    )


def with_saved_tensor_hooks(hooks):
    """Return a wrapper with hooks on saved tensors inside of a checkpoint that is not reentrant."""

    def wrap(again, block, x):
        def inside(y):
            with hooks():
                return block(y.sin()).tanh()

        return again(inside, x, is_reentrant=False)

    return wrap


def own_hooks():
    return torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t)


def outside_and_inside(is_reentrant):
    return lambda again, block, x: again(block, block(x), is_reentrant=is_reentrant)


def in_pieces(is_reentrant):
    def wrap(again, block, x):
        if again is once:
            return block(x)
        return checkpoint_sequential(block, 2, x, use_reentrant=is_reentrant)

    return wrap


CASES = (
    *(Case(f"checkpoint, {word}", checkpointed(plainly(r))) for word, r in KINDS),
    *(Case(f"checkpoint, {word}, accumulated", checkpointed(plainly(r), accumulated=3))
      for word, r in KINDS),
    *(Case(f"checkpoint, {o}, inside of it one, {i}", checkpointed(nested(outer, inner)))
      for o, outer in KINDS for i, inner in KINDS),
    *(Case(f"checkpoint, {o}, with more inside than one, {i}", checkpointed(nested_with_more(outer, inner)))
      for o, outer in KINDS for i, inner in KINDS),
    Case("checkpoint, save_on_cpu inside", checkpointed(with_saved_tensor_hooks(torch.autograd.graph.save_on_cpu))),
    Case("checkpoint, saved_tensors_hooks inside", checkpointed(with_saved_tensor_hooks(own_hooks))),
    *(Case(f"a block outside and inside of a checkpoint, {word}", checkpointed(outside_and_inside(r)))
      for word, r in KINDS),
    *(Case(f"checkpoint_sequential, {word}", checkpointed(in_pieces(r))) for word, r in KINDS),
    *(Case(f"a checkpointed module that returns its input, {word}", handed_through(r))
      for word, r in KINDS),
)  # fmt: skip
