"""Outputs in every shape that a module may give them, and outputs that are written to afterwards."""

import collections
import dataclasses
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional
from torch.testing._internal.two_tensor import TwoTensor
from trials import Case, Trial, trained
from trials.case import train

from cases.models import images, rows

__all__ = ["CASES"]


class Then(nn.Module):
    """Two inner layers with a function between: what happens to the first's output."""

    def __init__(self, between, first=None) -> None:
        super().__init__()
        self.first = first or nn.Linear(6, 6)
        self.last = nn.Linear(6, 3)
        self.between = between

    def forward(self, x):
        return self.last(self.between(self.first(x)))


class Returns(nn.Module):
    """A module that returns what a function makes of its linear layer's output."""

    def __init__(self, make) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.make = make

    def forward(self, x):
        return self.make(self.linear(x))


class ResidualBlock(nn.Module):
    """As in a ResNet: batch norm, in-place ReLU, in-place addition."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        out += x
        return self.relu(out)


@dataclasses.dataclass
class Answer:
    value: torch.Tensor
    hidden: torch.Tensor | None = None
    name: str = "answer"


@dataclasses.dataclass(frozen=True)
class FrozenAnswer:
    value: torch.Tensor


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


def holding(make, **more):
    """Return a case of a model whose second layer returns a structure."""
    return trained(lambda: nn.Sequential(nn.Linear(6, 6), Returns(make)), rows, **more)


def between(function, first=None):
    return trained(lambda: Then(function, first() if first is not None else None), rows)


def resnet():
    return nn.Sequential(nn.Conv2d(3, 4, 1), ResidualBlock(4), ResidualBlock(4), nn.Flatten())


def a_row_is_written_to(x):
    x = x * 1
    x[0] = 0.0
    return x


def halves_are_written_to(x):
    left, _ = torch.tensor_split(x, 2, dim=1)
    left.mul_(2.0)
    return x


def only_the_first_half(t: Trial) -> None:
    model = t.watch(nn.Sequential(nn.Linear(6, 6), Splits()))
    train(t, model, [rows() for _ in range(3)], forward=lambda x: model(x)[0])


class Splits(nn.Module):
    def forward(self, x):
        return x.split(3, dim=-1)


class GivesParameter(nn.Module):
    """Returns its own parameter: a leaf."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(5, 6))

    def forward(self, x):
        return self.table


class Sum(nn.Module):
    def __init__(self, *modules) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, x):
        return sum(part(x) for part in self.parts)


VIEW_REASON = "PyTorch takes the node of a view out of the graph when it is written to in place"

CASES = (
    Case("in-place ReLU after batch norm, in-place addition", trained(resnet, images)),
    Case("in-place ReLU first and last", trained(lambda: nn.Sequential(
        nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 6), nn.Hardtanh(inplace=True)), rows)),
    Case("in-place dropout, ELU, SiLU in a row", trained(lambda: nn.Sequential(
        nn.Linear(6, 6), nn.Dropout(0.4, inplace=True), nn.ELU(inplace=True),
        nn.SiLU(inplace=True), nn.Linear(6, 2)), rows)),
    Case("output times two in place", between(lambda x: x.mul_(2.0))),
    Case("output written to by an index", between(a_row_is_written_to)),
    Case("output of sigmoid added to in place", between(lambda x: x.sigmoid().add_(1.0))),
    Case("output detached in place of itself", between(lambda x: x.detach().requires_grad_())),
    Case("half of an output written to through a view", between(halves_are_written_to)),
    Case("an output that is a view, then relu_", between(
        functional.relu_, lambda: nn.Sequential(nn.Linear(6, 6), nn.Flatten(0, -1),
                                                             nn.Unflatten(0, (5, 6))))),
    Case("outputs that are chunks of one tensor", holding(lambda x: x.chunk(3, dim=-1))),
    Case("of two outputs one gets no gradient", only_the_first_half),
    Case("a module that returns its input", between(lambda x: x, nn.Identity)),
    Case("a module that returns its input twice", holding(lambda x: (x, x))),
    Case("flatten of something flat, dropout that drops nothing", trained(lambda: nn.Sequential(
        nn.Linear(6, 6), nn.Flatten(), nn.Dropout(0.0), nn.Identity(), nn.Linear(6, 1)), rows)),
    Case("identity in a residual", trained(lambda: nn.Sequential(
        nn.Linear(6, 6), Sum(nn.Identity(), nn.Linear(6, 6))), rows)),
    Case("a module that returns its parameter", trained(
        lambda: nn.Sequential(Sum(GivesParameter(), nn.Linear(6, 6)), nn.Linear(6, 2)), rows)),
    Case("expanded output, stride 0", holding(lambda x: x[:, :1].expand(5, 6))),
    Case("transposed and sliced output", holding(lambda x: x.T[::2, 1:])),
    Case("dictionary", holding(lambda x: {"a": x, "b": x.square(), 3: x * 2})),
    Case("ordered dictionary", holding(lambda x: collections.OrderedDict(z=x, a=x.exp()))),
    Case("nested structures with gaps", holding(
        lambda x: (x, [None, {"deep": (x.cos(), "text", 3)}], None, ()))),
    Case("named tuple", holding(lambda x: Pair(x, x.sin()))),
    Case("dataclass", holding(lambda x: Answer(x, x.tanh()))),
    Case("dataclass with nothing in a field", holding(Answer)),
    Case("frozen dataclass", holding(FrozenAnswer)),
    Case("integers and booleans among the outputs", holding(
        lambda x: (x, x.argmax(-1), x > 0, x.shape))),
    Case("sparse outputs, coordinates and rows", holding(lambda x: (x.to_sparse(), x.to_sparse_csr()))),
    Case("nested outputs, strided and jagged", holding(
        lambda x: [torch.nested.as_nested_tensor([x, x[:2]], layout=layout)
                   for layout in (torch.strided, torch.jagged)])),
    Case("two tensors in one: a subclass that wraps", trained(
        lambda: Returns(lambda x: x * 2), lambda: TwoTensor(rows(), rows()), reference=False)),
    Case("zero-dimensional output", holding(lambda x: x.mean())),
    Case("empty output", holding(lambda x: (x, x[:0]))),
    Case("an output detached from the graph", holding(lambda x: (x, x.detach()))),
    Case("twelve levels of lists", holding(lambda x: _nested(x, 12))),
    Case("loss inside of the model, root returns a pair", holding(lambda x: (x.square().mean(), x))),
)  # fmt: skip


def _nested(x, depth):
    return x if depth == 0 else [_nested(x, depth - 1)]
