"""What a rule's threshold is: one number, or a pair of the least and the greatest that is well."""

import math
from typing import TypeAlias

from gradscope.errors import UsageError

__all__ = ["Threshold", "checked", "limit", "limits"]

Threshold: TypeAlias = float | tuple[float, float]


def checked(rule: str, value: object, default: Threshold) -> Threshold:
    """Return the threshold of a rule, its default for None.

    Raises UsageError for what is of another kind than the default, negative, or no number.
    """
    if value is None:
        return default
    if isinstance(default, tuple):
        if isinstance(value, tuple) and len(value) == 2:
            low, high = _number(value[0]), _number(value[1])
            if low is not None and high is not None and low < high:
                return low, high
        raise UsageError(
            f"the threshold of {rule} is a pair (least, greatest) with 0 <= least < greatest, as "
            f"{default}; got {value!r}"
        )
    number = _number(value)
    if number is None:
        raise UsageError(
            f"the threshold of {rule} is a number of at least 0, as {default:g}; got {value!r}"
        )
    return number


def limit(threshold: Threshold) -> float:
    """Return a threshold that is one number."""
    return threshold[1] if isinstance(threshold, tuple) else threshold


def limits(threshold: Threshold) -> tuple[float, float]:
    """Return a threshold that is a pair."""
    return threshold if isinstance(threshold, tuple) else (0.0, threshold)


def _number(value: object) -> float | None:
    """Return a number of at least 0 as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if not math.isnan(value) and value >= 0 else None
