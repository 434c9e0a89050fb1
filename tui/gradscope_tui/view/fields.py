"""What is typed into a form's fields: read by the type that the run tells."""

import math

from gradscope.protocol import ArgumentInfo

__all__ = ["count_of", "number_of", "range_in_words"]


def number_of(argument: ArgumentInfo, text: str) -> float | None:
    """Return the number that was typed; None where it is none, or out of the argument's range."""
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        return None
    is_whole = argument.kind != "whole" or value.is_integer()
    is_low = argument.lowest is not None and value < argument.lowest
    is_high = argument.highest is not None and value > argument.highest
    return None if math.isnan(value) or is_low or is_high or not is_whole else value


def count_of(text: str) -> int | None:
    """Return the whole number of at least 0 that was typed; None where it is none."""
    return int(text) if text.isdecimal() else None


def range_in_words(argument: ArgumentInfo) -> str:
    """Return what numbers an argument takes."""
    words = ["a whole number" if argument.kind == "whole" else "a number"]
    if argument.lowest is not None:
        words.append(f"of at least {argument.lowest:g}")
    if argument.highest is not None:
        words.append(f"{'and' if len(words) > 1 else 'of'} at most {argument.highest:g}")
    return " ".join(words)
