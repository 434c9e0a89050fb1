"""The straight-through estimator.

Bengio, Léonard and Courville, "Estimating or propagating gradients through stochastic neurons", 2013.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradscope.errors import UsageError
from gradscope.functional.arguments import check_tensor
from gradscope.functional.stop import zeroed

__all__ = ["bypassed", "straight_through"]


def straight_through(x: Tensor, forward: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``forward(x)``, with the gradient of the identity function.

    Forward ``y = forward(x)``; backward ``dx = dy``. x has any shape; y, dx and dy have the same shape. y
    has the dtype of x. `forward` is called once, without gradients, on a copy of x. It may modify its
    argument in place. Parameters that it uses receive no gradient. For example,
    ``straight_through(x, torch.sign)`` binarises x.

    Raises UsageError if `forward` is not callable or returns another shape or dtype, or if x is sparse or
    not of floating-point or complex dtype.
    """
    check_tensor("straight_through", x)
    if not callable(forward):
        raise UsageError(
            f"straight_through expected a function of one tensor, got {type(forward).__name__}; "
            "pass the function itself, torch.round for instance"
        )
    with torch.no_grad():
        value = forward(x.detach().clone())
    _check_value(x, value)
    through: Tensor = _StraightThrough.apply(x, value)  # type: ignore[no-untyped-call]  # torch does not annotate apply
    return through


def _check_value(x: Tensor, value: object) -> None:
    got = (
        f"{value.dtype} of shape {tuple(value.shape)}"
        if isinstance(value, Tensor)
        else type(value).__name__
    )
    if not isinstance(value, Tensor) or value.shape != x.shape or value.dtype != x.dtype:
        raise UsageError(
            "straight_through expected forward(x) to be a tensor like x, "
            f"{x.dtype} of shape {tuple(x.shape)}, got {got}; "
            "the gradient of y is passed on as the gradient of x, so they must match "
            "(`lambda x: (x > 0).to(x.dtype)` rather than `lambda x: x > 0`)"
        )


class _StraightThrough(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, value: Tensor) -> Tensor:  # noqa: ARG004 - the gradient goes to x
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004 - torch's signature
        return dy, None


def bypassed(x: Tensor, y: Tensor) -> Tensor:
    """Return y, with the gradient of the identity function with respect to x.

    The operations that computed y receive zeros as gradient, so that their graph is kept. x and y have the
    same shape. dx has the dtype of x. Raises UsageError if the shapes differ.
    """
    if x.shape != y.shape or x.is_complex() != y.is_complex():
        raise UsageError(
            f"a gradient can pass straight where output and input have one shape, got {tuple(y.shape)} "
            f"for an input of {tuple(x.shape)}"
        )
    through: Tensor = _Bypass.apply(x, y)  # type: ignore[no-untyped-call]  # torch does not annotate apply
    return through


class _Bypass(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> Tensor:  # noqa: ARG004 - it receives the gradient
        return y.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:  # noqa: ARG004 - torch's signature; Any: ctx has arbitrary attributes
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor]:
        return dy.to(ctx.dtype), zeroed(dy)
