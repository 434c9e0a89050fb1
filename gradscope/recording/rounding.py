"""Rounds the statistics of older steps of a recording. `PRECISION` is the bound that the reader states.

The four columns of numbers become four integers: the deviation, the least and the greatest element as numbers with BITS
bits after the leading one, and the mean as a multiple of a power of two of at most 2^-8 of the deviation. So the
deviation is right to 2^-10 of itself however large the mean is. With d for the deviation:
    |mean' - mean| <= 2^-9 d',   |d' - d| <= 2^-10 d,   |min' - min| <= 2^-10 |min|,   the same for max,
and the norm and the rms are right to 2^-9. The result depends on nothing but the row, so equal rows stay equal.

A row is kept as it is if it has elements that are not finite, no elements, or one value only; if the mean
is more than 2^16 times the deviation; and if a number does not fit.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BITS",
    "FLOATS",
    "NEEDED",
    "PRECISION",
    "QUANTITIES",
    "Ints",
    "Numbers",
    "codes_of",
    "numbers_of",
    "round_statistics",
]

BITS: Final = 9
PRECISION: Final = 2.0**-9
"""Bound of the relative error of a rounded norm, rms, deviation, minimum and maximum; of the mean, in deviations."""

FLOATS: Final = ("sum", "sumsq", "min", "max")
"""The columns that are rounded. Counts are exact."""

QUANTITIES: Final = ("mean", "deviation", "min", "max")
"""What is an integer for each row."""

NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    **dict.fromkeys(("sum", "sumsq"), ("mean", "deviation")),
    "min": ("min",),
    "max": ("max",),
}
"""The quantities that each column of FLOATS needs."""

_MEAN_LIMIT: Final = 1 << (16 + BITS)
_DROPPED: Final = 52 - BITS
_NONFINITE: Final = ("nan", "posinf", "neginf")

Ints: TypeAlias = NDArray[np.int64]
Numbers: TypeAlias = NDArray[Any]


def codes_of(values: Mapping[str, Numbers]) -> tuple[dict[str, Ints], NDArray[np.bool_]]:
    """Return the integers of rows for each of QUANTITIES, and which rows are kept as they are: theirs are 0.

    values: all columns by name, of one shape; a count that is missing is 0.
    """
    count = np.asarray(values["count"], np.float64)
    sum_, sumsq = (np.asarray(values[name], np.float64) for name in ("sum", "sumsq"))
    with np.errstate(all="ignore"):
        mean = sum_ / count
        deviation = _code_of(np.sqrt(np.maximum(sumsq / count - mean * mean, 0.0)))
        steps = np.rint(np.ldexp(mean, BITS - _exponent(deviation)))
        is_exact = ~(np.isfinite(sum_) & np.isfinite(sumsq) & (np.abs(steps) < _MEAN_LIMIT))
    is_exact |= (count == 0) | ((deviation < 1 << BITS) & ((sum_ != 0) | (sumsq != 0)))
    for name in _NONFINITE:
        is_exact |= np.asarray(values.get(name, 0)) != 0
    codes = {"mean": np.where(is_exact, 0, steps).astype(np.int64), "deviation": deviation}
    for name in ("min", "max"):
        codes[name] = _code_of(values[name].astype(np.float64))
        number = _number_of(codes[name])
        with np.errstate(over="ignore"):
            fits = [np.isfinite(each.astype(np.float32)) for each in (values[name], number)]
        is_exact |= ~np.isfinite(number) | (fits[0] & ~fits[1])
    return {name: np.where(is_exact, 0, code) for name, code in codes.items()}, is_exact


def numbers_of(
    codes: Mapping[str, Ints], count: Numbers, names: Sequence[str] = FLOATS
) -> dict[str, NDArray[np.float64]]:
    """Return columns of FLOATS by name. codes: of the quantities that they need, as NEEDED says."""
    found = {name: _number_of(codes[name]) for name in names if name in codes}
    if "mean" in codes:
        count = np.asarray(count, np.float64)
        with np.errstate(all="ignore"):
            mean = np.ldexp(codes["mean"].astype(np.float64), _exponent(codes["deviation"]) - BITS)
            deviation = _number_of(codes["deviation"])
            found["sum"], found["sumsq"] = mean * count, count * (deviation * deviation + mean * mean)
    return {name: found[name] for name in names}


def round_statistics(values: Mapping[str, Numbers]) -> dict[str, Numbers]:
    """Return the columns with those of FLOATS rounded as in a recording."""
    codes, is_exact = codes_of(values)
    rounded = numbers_of(codes, values["count"])
    return {
        name: np.where(is_exact, array, rounded[name].astype(array.dtype)) if name in rounded else array
        for name, array in values.items()
    }


def _code_of(numbers: NDArray[np.float64]) -> Ints:
    """Return numbers with BITS bits after the leading one as integers in the order of the numbers; 0 is 0.

    Rounds to the nearest; a number below 2^-1022 becomes 0.
    """
    bits = np.ascontiguousarray(numbers).view(np.int64)
    code = ((bits & np.int64(2**63 - 1)) + (1 << (_DROPPED - 1))) >> _DROPPED
    return np.where(bits < 0, -code, code)


def _number_of(code: Ints) -> NDArray[np.float64]:
    """Return the numbers of `_code_of`."""
    return np.copysign((np.abs(code) << _DROPPED).view(np.float64), code)


def _exponent(code: Ints) -> NDArray[np.int32]:
    """Return e with 2^(e-1) <= x < 2^e for the numbers x of codes of at least 0."""
    return ((code >> BITS) - 1022).astype(np.int32)
