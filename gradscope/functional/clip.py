"""Clips a gradient to a maximum norm."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradscope.functional.arguments import check_gradient_is_dense, check_number, check_tensor

__all__ = ["clip_gradient_norm", "clipped", "clipped_together"]


def clip_gradient_norm(x: Tensor, max_norm: float) -> Tensor:
    """Return a copy of x whose gradient is scaled down to a norm of at most max_norm.

    Forward ``y = x``; backward ``dx = dy * max_norm / |dy|`` if ``|dy| > max_norm``, else ``dx = dy``
    bitwise. The norm is the Euclidean norm over all elements of this tensor. It is accumulated in float64
    (in float32 on devices without float64), so that half precision does not overflow. The clipped norm
    equals max_norm up to rounding in the dtype of dx. x has any shape; y, dx and dy have the same shape.
    max_norm is at least 0; math.inf clips nothing.

    A gradient with a NaN or an infinity is passed unchanged: scaling cannot repair it, and later checks
    (such as a GradScaler's) must see it. Under vmap, the norm is computed for each sample.

    Raises UsageError if max_norm is negative or NaN, or if x is sparse or not of floating-point or complex
    dtype; in backward, if the gradient is sparse.
    """
    check_tensor("clip_gradient_norm", x)
    check_number("clip_gradient_norm", "max_norm", max_norm, least=0.0, may_be_infinite=True)
    clipped: Tensor = _Clip.apply(x, max_norm)  # type: ignore[no-untyped-call]  # torch does not annotate apply
    return clipped


class _Clip(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, max_norm: float) -> Tensor:  # noqa: ARG004 - backward needs it
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:  # noqa: ARG004 - torch's signature; Any: ctx has arbitrary attributes
        ctx.max_norm = inputs[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        if ctx.max_norm != math.inf:
            check_gradient_is_dense("clip_gradient_norm", dy)
        return clipped(dy, ctx.max_norm), None


def clipped(dy: Tensor, max_norm: float) -> Tensor:
    """Return the gradient, scaled down to a norm of at most max_norm."""
    if max_norm == math.inf:
        return dy
    return _shortened(dy, torch.linalg.vector_norm(dy, dtype=_accumulator(dy)), max_norm)


def clipped_together(dys: Sequence[Tensor], max_norm: float) -> list[Tensor]:
    """Return the gradients, scaled by one factor so that their joint norm is at most max_norm; on any devices."""
    if max_norm == math.inf or not dys:
        return list(dys)
    home = dys[0].device
    norms = [torch.linalg.vector_norm(dy, dtype=_accumulator(dy)).to(home) for dy in dys]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    return [_shortened(dy, norm.to(dy.device), max_norm) for dy in dys]


def _shortened(dy: Tensor, norm: Tensor, max_norm: float) -> Tensor:
    """Return dy scaled by max_norm / norm if norm exceeds max_norm, else dy."""
    is_over = (norm > max_norm) & norm.isfinite()
    # If nothing is clipped, the unused branch must still be finite: zero times infinity would be NaN
    # in the second derivative.
    factor = max_norm / torch.where(is_over, norm, torch.ones_like(norm))
    working = torch.promote_types(dy.dtype, torch.float32)
    smaller = dy.to(working) * factor.to(working)
    return torch.where(is_over, smaller.to(dy.dtype), dy)


def _accumulator(dy: Tensor) -> torch.dtype:
    widest = torch.float32 if dy.device.type == "mps" else torch.float64
    return torch.promote_types(dy.dtype, widest)
