"""A gradient kept under a norm."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from gradscope.functional.arguments import check_gradient_is_dense, check_number, check_tensor

__all__ = ["clip_gradient_norm", "clipped", "clipped_together"]


def clip_gradient_norm(x: Tensor, max_norm: float) -> Tensor:
    """Return a copy of x whose gradient, seen as one vector, is at most max_norm long.

    Forward ``y = x``; backward ``dx = dy * max_norm / |dy|`` where ``|dy| > max_norm``, else bitwise
    ``dx = dy``. The norm is Euclidean, over all elements of this one tensor, and accumulated in float64
    (float32 on devices that lack it), so that half precision does not overflow; the clipped norm is
    max_norm up to the rounding of dx's dtype. x has any shape; y, dx and dy have the same. max_norm is
    at least 0; math.inf clips nothing.

    A gradient with a NaN or an infinity passes unchanged: no factor can make it right, and it must stay
    visible to what looks for it further down (a GradScaler, say). Under vmap each sample has a norm of
    its own.

    Raises UsageError for a negative or NaN max_norm, for a tensor that is sparse or of whole numbers,
    and in backward for a sparse gradient.
    """
    check_tensor("clip_gradient_norm", x)
    check_number("clip_gradient_norm", "max_norm", max_norm, least=0.0, may_be_infinite=True)
    clipped: Tensor = _Clip.apply(x, max_norm)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return clipped


class _Clip(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, max_norm: float) -> Tensor:  # noqa: ARG004 - backward needs it
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:  # noqa: ARG004 - torch's signature; Any: ctx has what is put on it
        ctx.max_norm = inputs[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        if ctx.max_norm != math.inf:
            check_gradient_is_dense("clip_gradient_norm", dy)
        return clipped(dy, ctx.max_norm), None


def clipped(dy: Tensor, max_norm: float) -> Tensor:
    """Return the gradient, at most max_norm long."""
    if max_norm == math.inf:
        return dy
    return _shortened(dy, torch.linalg.vector_norm(dy, dtype=_accumulator(dy)), max_norm)


def clipped_together(dys: Sequence[Tensor], max_norm: float) -> list[Tensor]:
    """Return gradients that, seen as one vector, are at most max_norm long; on any devices."""
    if max_norm == math.inf or not dys:
        return list(dys)
    home = dys[0].device
    norms = [torch.linalg.vector_norm(dy, dtype=_accumulator(dy)).to(home) for dy in dys]
    norm = torch.linalg.vector_norm(torch.stack(norms))
    return [_shortened(dy, norm.to(dy.device), max_norm) for dy in dys]


def _shortened(dy: Tensor, norm: Tensor, max_norm: float) -> Tensor:
    """Return dy times what brings a norm down to max_norm, where it is longer."""
    is_over = (norm > max_norm) & norm.isfinite()
    # Where nothing is clipped the unused branch must still be finite, or its zero times an infinity
    # would be a NaN in the second derivative.
    factor = max_norm / torch.where(is_over, norm, torch.ones_like(norm))
    working = torch.promote_types(dy.dtype, torch.float32)
    smaller = dy.to(working) * factor.to(working)
    return torch.where(is_over, smaller.to(dy.dtype), dy)


def _accumulator(dy: Tensor) -> torch.dtype:
    widest = torch.float32 if dy.device.type == "mps" else torch.float64
    return torch.promote_types(dy.dtype, widest)
