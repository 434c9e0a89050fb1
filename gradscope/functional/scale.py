"""Multiplies a gradient by a constant."""

from typing import Any

from torch import Tensor
from torch.autograd import Function

from gradscope.functional.arguments import check_number, check_tensor
from gradscope.functional.multiply import times

__all__ = ["scale_gradient"]


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return a copy of x whose gradient is multiplied by a constant.

    Forward ``y = x``; backward ``dx = factor * dy``. x has any shape; y, dx and dy have the same shape. If
    factor is 1, the gradient is bitwise unchanged. factor is finite and may be negative or 0.

    Raises UsageError if factor is not finite, or if x is sparse or not of floating-point or complex dtype.
    """
    check_tensor("scale_gradient", x)
    check_number("scale_gradient", "factor", factor)
    scaled: Tensor = _Scale.apply(x, factor)  # type: ignore[no-untyped-call]  # torch does not annotate apply
    return scaled


class _Scale(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, factor: float) -> Tensor:  # noqa: ARG004 - backward needs it
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:  # noqa: ARG004 - torch's signature; Any: ctx has arbitrary attributes
        ctx.factor = inputs[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return times(dy, ctx.factor), None
