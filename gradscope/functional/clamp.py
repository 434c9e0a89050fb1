"""Clamps the elements of a gradient."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradscope.functional.arguments import check_gradient_is_dense, check_number, check_tensor

__all__ = ["clamp_gradient", "clamped"]


def clamp_gradient(x: Tensor, limit: float) -> Tensor:
    """Return a copy of x whose gradient is clamped elementwise to [-limit, limit].

    Forward ``y = x``; backward ``dx = min(max(dy, -limit), limit)``. For complex tensors, the real and the
    imaginary part are clamped separately. x has any shape; y, dx and dy have the same shape. limit is at
    least 0. A limit of math.inf, or above the largest number of the dtype, clamps nothing. An infinity
    becomes ±limit; a NaN is unchanged.

    Raises UsageError if limit is negative or NaN, or if x is sparse or not of floating-point or complex
    dtype; in backward, if the gradient is sparse.
    """
    check_tensor("clamp_gradient", x)
    check_number("clamp_gradient", "limit", limit, least=0.0, may_be_infinite=True)
    clamped: Tensor = _Clamp.apply(x, limit)  # type: ignore[no-untyped-call]  # torch does not annotate apply
    return clamped


class _Clamp(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, limit: float) -> Tensor:  # noqa: ARG004 - backward needs it
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:  # noqa: ARG004 - torch's signature; Any: ctx has arbitrary attributes
        ctx.limit = inputs[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        if ctx.limit <= torch.finfo(dy.dtype).max:
            check_gradient_is_dense("clamp_gradient", dy)
        return clamped(dy, ctx.limit), None


def clamped(dy: Tensor, limit: float) -> Tensor:
    """Return the gradient clamped elementwise to [-limit, limit]."""
    if limit > torch.finfo(dy.dtype).max:
        return dy
    if dy.is_complex():
        return torch.complex(dy.real.clamp(-limit, limit), dy.imag.clamp(-limit, limit))
    return dy.clamp(-limit, limit)
