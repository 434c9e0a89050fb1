"""Replaces NaN and infinities in a gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradscope.functional.arguments import check_gradient_is_dense, check_number, check_tensor

__all__ = ["replace_nonfinite_gradient", "replaced"]


def replace_nonfinite_gradient(x: Tensor, value: float = 0.0) -> Tensor:
    """Return a copy of x in whose gradient each NaN and infinity is replaced by `value`.

    Forward ``y = x``; backward ``dx = dy`` where dy is finite, else ``value``. A complex element with a
    nonfinite part is replaced as a whole. x has any shape; y, dx and dy have the same shape. value is
    finite.

    Raises UsageError if value is not finite, or if x is sparse or not of floating-point or complex dtype;
    in backward, if the gradient is sparse.
    """
    check_tensor("replace_nonfinite_gradient", x)
    check_number("replace_nonfinite_gradient", "value", value)
    finite: Tensor = _Replace.apply(x, value)  # type: ignore[no-untyped-call]  # torch does not annotate apply
    return finite


class _Replace(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, value: float) -> Tensor:  # noqa: ARG004 - backward needs it
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:  # noqa: ARG004 - torch's signature; Any: ctx has arbitrary attributes
        ctx.value = inputs[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        check_gradient_is_dense("replace_nonfinite_gradient", dy)
        return replaced(dy, ctx.value), None


def replaced(gradient: Tensor, value: float) -> Tensor:
    """Return the gradient with each nonfinite element replaced by `value`."""
    return torch.where(gradient.isfinite(), gradient, torch.full_like(gradient, value))
