"""The eight most common error messages of autograd, recognised by PyTorch's wording, with causes and fixes."""

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["KNOWN_MESSAGES", "KnownMessage", "recognise"]


@dataclass(frozen=True, slots=True)
class KnownMessage:
    """One known message. `pattern` is a regex that is searched in the text of an exception."""

    name: str
    pattern: re.Pattern[str]
    cause: str
    cure: str


def _known_message(name: str, pattern: str, cause: str, cure: str) -> KnownMessage:
    return KnownMessage(name, re.compile(pattern, re.IGNORECASE), cause, cure)


KNOWN_MESSAGES: Final = (
    _known_message(
        "modified by an in-place operation",
        "modified by an inplace operation|is being (used in an in-?place operation|modified inplace)"
        "|more than one element of the written-to tensor refers to a single memory location",
        "a tensor that backward needs, or that shares its memory, was written to after it was saved",
        "use the out-of-place operation (x = x + 1, not x += 1; relu, not relu_), or clone() before "
        "the write; declare an input that forward must change with ctx.mark_dirty",
    ),
    _known_message(
        "grad can be implicitly created only for scalar outputs",
        "grad can be implicitly created only for scalar outputs",
        "backward() was called on a tensor of several elements without a gradient for them",
        "reduce to a number first (loss.mean().backward()), or pass gradient= of the output's shape",
    ),
    _known_message(
        "expected X gradients, got Y",
        r"returned an incorrect number of gradients \(expected \d+, got \d+\)"
        r"|expected \d+ gradients?,? (but )?got \d+",
        "backward must return one value for each argument of forward except ctx",
        "return as many values as forward has arguments, None for an argument that is not a tensor",
    ),
    _known_message(
        "invalid gradient shape at index",
        r"returned an invalid gradient at index \d+ - got \[.*\] but expected shape compatible with",
        "the gradient of an input does not have the shape of that input",
        "return each gradient in the shape of its input: sum over broadcast dims, transpose, expand",
    ),
    _known_message(
        "sizes of tensors must match",
        r"sizes? of tensors? .*must match|shapes cannot be multiplied"
        r"|size mismatch|shape mismatch",
        "an operation got two tensors whose shapes neither agree nor broadcast",
        "print both shapes at that line; transpose, unsqueeze or expand one of them",
    ),
    _known_message(
        "gradcheck failed",
        r"jacobian mismatch for output \d+ with respect to input \d+|gradcheck failed",
        "backward does not compute the derivative of forward",
        "derive the formula again, in double precision; gradscope.examine says where it is wrong",
    ),
    _known_message(
        "no attribute saved_tensors",
        r"has no attribute '?saved_(tensors?|variables)",
        "saved_tensors was read from another object than the ctx of backward, or misspelled",
        "call ctx.save_for_backward(...) in forward (or setup_context), read ctx.saved_tensors in "
        "backward",
    ),
    _known_message(
        "save_for_backward given non-tensors",
        r"save_for_backward can only save variables, but argument \d+ is of type",
        "save_for_backward takes only tensors and None",
        "save numbers, shapes and strings as attributes: ctx.alpha = alpha",
    ),
)


def recognise(text: str) -> KnownMessage | None:
    """Return the first known message in a text, or None."""
    return next((row for row in KNOWN_MESSAGES if row.pattern.search(text)), None)
