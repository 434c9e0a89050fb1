"""Argument checks that the functions share."""

import math
from numbers import Real

import torch
from torch import Tensor

from gradscope.errors import UsageError

__all__ = ["check_gradient_is_dense", "check_number", "check_tensor"]


def check_tensor(function: str, x: object) -> None:
    """Raise UsageError unless x is a dense tensor of floating-point or complex dtype."""
    if not isinstance(x, Tensor):
        raise UsageError(
            f"{function} expected a tensor, got {type(x).__name__}; "
            "of a tuple or dict of tensors, pass each tensor by itself"
        )
    if not (x.is_floating_point() or x.is_complex()):
        raise UsageError(
            f"{function} expected a floating-point or complex tensor, got {x.dtype}, which can have no "
            "gradient; convert it first, or leave it out"
        )
    if x.layout is not torch.strided:
        dense = "x.to_dense(), or on a dense tensor computed from x"
        if x.layout is torch.jagged:
            dense = "x.values(), and pass the result to torch.nested.nested_tensor_from_jagged with x.offsets()"
        raise UsageError(
            f"{function} expected a dense (strided) tensor, got layout {x.layout}; call it on {dense}"
        )


def check_number(
    function: str, name: str, value: object, *, least: float = -math.inf, may_be_infinite: bool = False
) -> None:
    """Raise UsageError unless `value` is a real number of at least `least`, and finite unless `may_be_infinite`."""
    wanted = "a real number" if least == -math.inf else f"a real number of at least {least:g}"
    wanted += ", or math.inf for no limit" if may_be_infinite else ", and finite"
    if isinstance(value, bool) or not isinstance(value, Real):
        raise UsageError(
            f"{function} expected {name} to be {wanted}, got {type(value).__name__} {value!r}; "
            f"pass a Python number, float({name}) for instance"
        )
    number = float(value)
    if number != number or number < least or (number in (math.inf, -math.inf) and not may_be_infinite):  # noqa: PLR0124 - NaN
        raise UsageError(
            f"{function} expected {name} to be {wanted}, got {number}; pass a number in that range"
        )


def check_gradient_is_dense(function: str, gradient: Tensor) -> None:
    """Raise UsageError if a gradient is sparse, such as that of `nn.Embedding(sparse=True)`.

    torch.compile traces backward with dense gradients only, and cannot trace a check of the layout.
    """
    if torch.compiler.is_compiling():
        return
    if gradient.layout is not torch.strided:
        raise UsageError(
            f"{function} expected a dense gradient, got layout {gradient.layout}; "
            "make the gradient dense, as with nn.Embedding(sparse=False)"
        )
