"""Quantities derived from the columns, for scalars and arrays.

With n finite elements: mean = sum / n, rms = sqrt(sumsq / n), norm = sqrt(sumsq) and
std = sqrt(sumsq / n - mean^2), the *population* deviation (it divides by n). If there is no finite
element, mean, rms, std and absmax are NaN and the norm is 0. If the sum of squares overflows float64
(finite magnitudes above 1e154), rms, norm and std are inf.
"""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["DERIVATIONS", "Floats", "derive_from", "update_ratio"]

Floats: TypeAlias = NDArray[np.float64]
_Column: TypeAlias = Callable[[str], Floats]
"""Returns a column by name."""


def derive_from(name: str, column: _Column) -> Floats:
    """Compute the derived quantity `name` from the columns that `column(name)` returns."""
    return DERIVATIONS[name](column)


def _finite_count(column: _Column) -> Floats:
    return column("count") - column("nan") - column("posinf") - column("neginf")


def _std(column: _Column) -> Floats:
    """Return the population standard deviation; a variance that rounding makes negative counts as 0."""
    finite = _finite_count(column)
    mean_square = _divide(column("sumsq"), finite)
    with np.errstate(over="ignore", invalid="ignore"):
        variance = mean_square - np.square(_divide(column("sum"), finite))
    return np.sqrt(np.where(np.isinf(mean_square), np.inf, np.maximum(variance, 0.0)))


def _absmax(column: _Column) -> Floats:
    greatest = np.maximum(np.abs(column("min")), np.abs(column("max")))
    return np.where(_finite_count(column) > 0, greatest, np.nan)


DERIVATIONS: dict[str, Callable[[_Column], Floats]] = {
    "finite": _finite_count,
    "nonfinite": lambda column: column("nan") + column("posinf") + column("neginf"),
    "mean": lambda column: _divide(column("sum"), _finite_count(column)),
    "std": _std,
    "rms": lambda column: np.sqrt(_divide(column("sumsq"), _finite_count(column))),
    "norm": lambda column: np.sqrt(column("sumsq")),
    "absmax": _absmax,
}


def update_ratio(update_norm: Floats, param_norm: Floats) -> Floats:
    """Return |Δw| / |w|; NaN if the parameter is all zero."""
    return _divide(update_norm, param_norm)


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    if numerator.shape != denominator.shape:
        numerator, denominator = np.broadcast_arrays(numerator, denominator)
    quotient = np.full(numerator.shape, np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        np.divide(numerator, denominator, out=quotient, where=denominator != 0)
    return quotient
