"""A gradient that ends here, as zeros."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradscope.functional.arguments import check_tensor

__all__ = ["stop_gradient", "zeroed"]


def stop_gradient(x: Tensor) -> Tensor:
    """Return a copy of x that passes zeros back.

    Forward ``y = x``; backward ``dx = 0``, of x's shape. Unlike ``x.detach()`` the graph stays whole:
    backward runs even when nothing else in the loss needs a gradient, DDP sees each parameter, and what
    lies before receives zeros where ``detach`` leaves None (weight decay still moves it).

    Raises UsageError for a tensor that is sparse or of whole numbers.
    """
    check_tensor("stop_gradient", x)
    stopped: Tensor = _Stop.apply(x)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
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
    """Return zeros like the gradient."""
    zeros: Tensor = _Zeros.apply(dy)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return zeros


class _Zeros(Function):
    """Zeros that hang on the graph, so that a second derivative is 0 and no error."""

    generate_vmap_rule = True

    @staticmethod
    def forward(dy: Tensor) -> Tensor:
        return torch.zeros_like(dy)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, ddx: Tensor) -> Tensor:  # noqa: ARG004 - torch's signature
        zeros: Tensor = _Zeros.apply(ddx)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
        return zeros
