"""Changing a gradient by any function; interventions use this."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import Tensor
from torch.autograd import Function

from gradscope.errors import UsageError
from gradscope.functional.arguments import check_tensor

__all__ = ["change_gradient", "change_gradients_together", "check_changed"]

_Together: TypeAlias = Callable[[list[Tensor]], Sequence[Tensor]]


def change_gradient(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Return a copy of x whose gradient is what `function` makes of the one that arrives.

    Forward ``y = x``; backward ``dx = function(dy)``. x has any shape; y, dx and dy have the same, and
    dx has dy's dtype. `function` is called once for each backward pass. What it does is differentiated
    in turn where a second derivative is wanted.

    Raises UsageError when `function` is not callable, for a tensor that is sparse or of whole numbers,
    and in backward when `function` returns anything but a tensor like the gradient.
    """
    check_tensor("change_gradient", x)
    if not callable(function):
        raise UsageError(
            f"change_gradient expected a function of one tensor, got {type(function).__name__}; "
            "pass the function itself, `lambda gradient: gradient.sign()` for instance"
        )
    changed: Tensor = _Change.apply(x, function)  # type: ignore[no-untyped-call]  # torch leaves apply untyped
    return changed


def check_changed(gradient: Tensor, changed: object) -> Tensor:
    """Return what a function made of a gradient. Raises UsageError if it is not a tensor like it."""
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
    def setup_context(ctx: Any, inputs: tuple[Tensor, Any], output: Tensor) -> None:  # noqa: ARG004 - torch's signature; Any: ctx has what is put on it
        ctx.function = inputs[1]

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, None]:
        return check_changed(dy, ctx.function(dy)), None


def change_gradients_together(xs: Sequence[Tensor], function: _Together) -> list[Tensor]:
    """Return copies of tensors whose gradients `function` changes all at once.

    Forward ``y_i = x_i``; backward ``dx_1, … = function([dy_1, …])`` over the tensors that have a gradient;
    the others have none either way. All must come from one graph and be used in one backward pass.
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
