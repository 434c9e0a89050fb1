"""Applies a given function to a gradient. Interventions use this."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor
from torch.autograd import Function

from gradscope.errors import UsageError
from gradscope.functional.arguments import check_tensor

__all__ = ["change_gradient", "change_gradients_together", "check_changed"]

_Together: TypeAlias = Callable[[list[Tensor]], Sequence[Tensor]]


def change_gradient(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a copy of x whose gradient is passed through `function`.

    Forward ``y = x``; backward ``dx = function(dy)``. x has any shape; y, dx and dy have the same shape.
    dx has the dtype of dy. `function` is called once in each backward pass. With ``create_graph=True`` its
    operations are differentiated, too.

    Raises UsageError if `function` is not callable, or if x is sparse or not of floating-point or complex
    dtype; in backward, if `function` does not return a tensor of dy's shape and dtype.
    """
    check_tensor("change_gradient", x)
    if not callable(function):
        raise UsageError(
            f"change_gradient expected a function of one tensor, got {type(function).__name__}; "
            "pass the function itself, `lambda gradient: gradient.sign()` for instance"
        )
    changed: Tensor = _Change.apply(x, function)  # type: ignore[no-untyped-call]  # torch does not annotate apply
    return changed


def check_changed(gradient: Tensor, changed: object) -> Tensor:
    """Return `changed`. Raises UsageError unless it is a tensor of the gradient's shape and dtype."""
    if isinstance(changed, Tensor) and (changed.shape, changed.dtype) == (
        gradient.shape,
        gradient.dtype,
    ):
        return changed
    got = (
        f"{changed.dtype} of shape {tuple(changed.shape)}"
        if isinstance(changed, Tensor)
        else type(changed).__name__
    )
    raise UsageError(
        f"the function that changes a gradient was given {gradient.dtype} of shape "
        f"{tuple(gradient.shape)} and must return a tensor like it, got {got}"
    )


class _Change(Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:  # noqa: ARG004 - backward needs it
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Any], output: Tensor) -> None:  # noqa: ARG004 - torch's signature; Any: ctx has arbitrary attributes
        ctx.function = inputs[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return check_changed(dy, ctx.function(dy)), None


def change_gradients_together(xs: Sequence[Tensor], function: _Together) -> list[Tensor]:
    """Return copies of several tensors whose gradients are passed through `function` in one call.

    Forward ``y_i = x_i``; backward ``dx_1, … = function([dy_1, …])``, over the tensors that have a gradient.
    A tensor without a gradient keeps none. All tensors must belong to one graph and be used in one backward
    pass.
    """
    return list(_ChangeTogether.apply(function, *xs))  # type: ignore[no-untyped-call]  # as above


class _ChangeTogether(Function):
    @staticmethod
    def forward(function: _Together, *xs: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004 - backward needs it
        return tuple(x.clone() for x in xs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:  # noqa: ARG004 - as above
        ctx.function = inputs[0]
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor | None) -> tuple[Tensor | None, ...]:
        there = [dy for dy in dys if dy is not None]
        changed = iter(ctx.function(there))
        return (None, *(None if dy is None else check_changed(dy, next(changed)) for dy in dys))
