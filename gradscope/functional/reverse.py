"""Gradient reversal: Ganin and Lempitsky, "Unsupervised domain adaptation by backpropagation", 2015."""

from typing import Any

from torch import Tensor
from torch.autograd import Function

from gradscope.functional.arguments import check_number, check_tensor
from gradscope.functional.multiply import times

__all__ = ["reverse_gradient"]


def reverse_gradient(x: Tensor, alpha: float = 1.0) -> Tensor:
    """Return a copy of x whose gradient is multiplied by -alpha.

    Forward ``y = x``; backward ``dx = -alpha * dy``. x has any shape; y, dx and dy have the same shape. If
    alpha is 1, the gradient is negated exactly. alpha is finite and at least 0.

    Raises UsageError if alpha is negative or not finite (`scale_gradient` accepts any sign), or if x is
    sparse or not of floating-point or complex dtype.
    """
    check_tensor("reverse_gradient", x)
    check_number("reverse_gradient", "alpha", alpha, least=0.0)
    reversed_: Tensor = _Reverse.apply(x, alpha)  # type: ignore[no-untyped-call]  # torch does not annotate apply
    return reversed_


class _Reverse(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, alpha: float) -> Tensor:  # noqa: ARG004 - backward needs it
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:  # noqa: ARG004 - torch's signature; Any: ctx has arbitrary attributes
        ctx.alpha = inputs[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return times(-dy, ctx.alpha), None
