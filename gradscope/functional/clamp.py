"""A gradient whose elements are kept between two limits."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradscope.functional.arguments import check_gradient_is_dense, check_number, check_tensor

__all__ = ["clamp_gradient", "clamped"]


def clamp_gradient(x: Tensor, limit: float) -> Tensor:
    """Return a copy of x, each element of whose gradient lies between -limit and limit.

    Forward ``y = x``; backward ``dx = min(max(dy, -limit), limit)``, of complex numbers the real and
    the imaginary part each by itself. x has any shape; y, dx and dy have the same. limit is at least 0;
    math.inf, and what the dtype cannot hold, clamps nothing. An infinity becomes a limit, a NaN stays.

    Raises UsageError for a negative or NaN limit, for a tensor that is sparse or of whole numbers, and
    in backward for a sparse gradient.
    """
    check_tensor("clamp_gradient", x)
    check_number("clamp_gradient", "limit", limit, least=0.0, may_be_infinite=True)
    clamped: Tensor = _Clamp.apply(x, limit)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return clamped


class _Clamp(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, limit: float) -> Tensor:  # noqa: ARG004 - backward needs it
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:  # noqa: ARG004 - torch's signature; Any: ctx has what is put on it
        ctx.limit = inputs[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        if ctx.limit <= torch.finfo(dy.dtype).max:
            check_gradient_is_dense("clamp_gradient", dy)
        return clamped(dy, ctx.limit), None


def clamped(dy: Tensor, limit: float) -> Tensor:
    """Return the gradient with each element between -limit and limit."""
    if limit > torch.finfo(dy.dtype).max:
        return dy
    if dy.is_complex():
        return torch.complex(dy.real.clamp(-limit, limit), dy.imag.clamp(-limit, limit))
    return dy.clamp(-limit, limit)
