"""Thresholds of rules: a number, or the pair (minimum, maximum) of the healthy range; what a value beyond one proves.

The logarithm of a value of one batch scatters around its level; call the deviation `spread`. If the level is
at the limit, a value x deviations beyond it has the likelihood ratio exp(x^2 / 2) against a level at x. These
ratios multiply over steps, so x^2 / 2 adds up. A report needs a likelihood ratio of 10,000, because a run
compares some thousand values (layers by steps) with limits. One step gives at most half, because one batch may be
unlike all others.
"""

import math
from typing import TypeAlias

from gradscope.errors import UsageError

__all__ = ["Threshold", "checked", "limit", "limits", "weight_of"]

_NEEDED = math.log(1e4)
_MOST = 0.5

Threshold: TypeAlias = float | tuple[float, float]


def checked(rule: str, value: object, default: Threshold) -> Threshold:
    """Return `value` as the threshold of a rule, or `default` if it is None.

    Raises UsageError if `value` is negative, not a number, or a pair where `default` is not (and vice versa).
    """
    if value is None:
        return default
    if isinstance(default, tuple):
        if isinstance(value, tuple) and len(value) == 2:
            low, high = _number(value[0]), _number(value[1])
            if low is not None and high is not None and low < high:
                return low, high
        raise UsageError(
            f"expected the threshold of {rule} to be a pair (minimum, maximum) with "
            f"0 <= minimum < maximum, for example {default}; got {value!r}"
        )
    number = _number(value)
    if number is None:
        raise UsageError(
            f"expected the threshold of {rule} to be a number of at least 0, for example {default:g}; "
            f"got {value!r}"
        )
    return number


def limit(threshold: Threshold) -> float:
    """Return the upper limit of a threshold."""
    return threshold[1] if isinstance(threshold, tuple) else threshold


def limits(threshold: Threshold) -> tuple[float, float]:
    """Return the lower and the upper limit of a threshold."""
    return threshold if isinstance(threshold, tuple) else (0.0, threshold)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if not math.isnan(value) and value >= 0 else None


def weight_of(decades: float, spread: float) -> float:
    """Return the part of the needed evidence that one step gives.

    decades: how far the value is beyond its limit, as a base-10 logarithm. spread: the usual deviation of
    that logarithm from batch to batch.
    """
    if not decades > 0:
        return 0.0
    return min(_MOST, (decades / spread) ** 2 / 2.0 / _NEEDED)
