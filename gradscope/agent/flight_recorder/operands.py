"""Says what is wrong with the operands of an operation whose result is not finite."""

from collections.abc import Callable, Sequence
from typing import Final

import torch

__all__ = ["describe_operands"]

_Test = Callable[[torch.Tensor], torch.Tensor]


def _is_zero(values: torch.Tensor) -> torch.Tensor:
    return values == 0


def _is_negative(values: torch.Tensor) -> torch.Tensor:
    return values < 0


def _is_beyond_one(values: torch.Tensor) -> torch.Tensor:
    return values.abs() > 1


def _is_one(values: torch.Tensor) -> torch.Tensor:
    return values.abs() == 1


def _is_infinite(values: torch.Tensor) -> torch.Tensor:
    return torch.isinf(values)


_RULES: Final[dict[str, tuple[tuple[int, _Test, str], ...]]] = {
    "log": ((0, _is_negative, "{} of a negative number"), (0, _is_zero, "{} of 0")),
    "sqrt": ((0, _is_negative, "{} of a negative number"), (0, _is_zero, "{} of 0")),
    "rsqrt": ((0, _is_negative, "{} of a negative number"), (0, _is_zero, "{} of 0")),
    "reciprocal": ((0, _is_zero, "{} of 0"),),
    "div": ((1, _is_zero, "a division by 0"),),
    "remainder": ((1, _is_zero, "a division by 0"),),
    "acos": ((0, _is_beyond_one, "{} of a number outside [-1, 1]"),),
    "atanh": ((0, _is_beyond_one, "{} of a number outside [-1, 1]"), (0, _is_one, "{} of 1")),
    "pow": ((0, _is_zero, "a power of 0"), (0, _is_negative, "a power of a negative number")),
}
"""By operation: which operand, what is wrong with an element of it, and the words."""

_SAME: Final = {
    "log2": "log", "log10": "log", "log1p": "log", "asin": "acos", "true_divide": "div", "fmod": "remainder",
}  # fmt: skip
_OVERFLOWING: Final = ("exp", "mm", "addmm", "bmm", "baddbmm", "mul", "add", "sum", "cosh", "sinh", "expm1", "square",
                       "convolution", "linear", "matmul", "dot", "prod", "cumsum", "cumprod", "softplus")  # fmt: skip


def describe_operands(operation: str, operands: Sequence[torch.Tensor], is_nan: bool) -> str:
    """Return a description of what is wrong with the operands; an empty string if that is not known."""
    name = operation.rstrip("_")
    numbers = [each.detach() for each in operands if each.is_floating_point()]
    for place, test, words in _RULES.get(_SAME.get(name, name), ()):
        if place < len(numbers) and bool(test(numbers[place]).any()):
            return words.format(name)
    if is_nan and "softmax" in name:
        return _of_softmax(numbers)
    if is_nan and any(bool(_is_infinite(each).any()) for each in numbers):
        return "of an infinite operand"
    if not is_nan and name.strip("_") in _OVERFLOWING:
        dtype = str(numbers[0].dtype).removeprefix("torch.") if numbers else "its format"
        return f"an overflow of {dtype}"
    return ""


def _of_softmax(numbers: Sequence[torch.Tensor]) -> str:
    if numbers and bool((numbers[0] == -torch.inf).all(-1).any()):
        return "all values of a row are -inf: a row is masked completely"
    return "a row contains inf" if numbers and bool((numbers[0] == torch.inf).any()) else ""
