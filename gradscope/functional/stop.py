"""Replaces a gradient by zeros."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradscope.functional.arguments import check_tensor

__all__ = ["stop_gradient", "zeroed"]


def stop_gradient(x: Tensor) -> Tensor:
    """Return a copy of x whose gradient is zero.

    Forward ``y = x``; backward ``dx = 0``, with the shape of x. Unlike ``x.detach()``, this keeps the graph:
    backward runs even if nothing else in the loss requires a gradient, and DDP finds every parameter.
    Parameters before x receive zeros, not None as with ``detach`` (so weight decay still changes them).

    Raises UsageError if x is sparse or not of floating-point or complex dtype.
    """
    check_tensor("stop_gradient", x)
    stopped: Tensor = _Stop.apply(x)  # type: ignore[no-untyped-call]  # torch does not annotate apply
    return stopped


class _Stop(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        return zeroed(dy)


def zeroed(dy: Tensor) -> Tensor:
    """Return zeros with the gradient's shape and dtype."""
    zeros: Tensor = _Zeros.apply(dy)  # type: ignore[no-untyped-call]  # torch does not annotate apply
    return zeros


class _Zeros(Function):
    """Returns zeros that are part of the graph, so that a second derivative is 0 instead of an error."""

    generate_vmap_rule = True

    @staticmethod
    def forward(dy: Tensor) -> Tensor:
        return torch.zeros_like(dy)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, ddx: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        zeros: Tensor = _Zeros.apply(ddx)  # type: ignore[no-untyped-call]  # torch does not annotate apply
        return zeros
