"""Quantities derived from the columns, for scalars and arrays.

With n finite elements: mean = sum / n, rms = sqrt(sumsq / n), norm = sqrt(sumsq) and
std = sqrt(sumsq / n - mean^2), the *population* deviation (it divides by n). If there is no finite
element, mean, rms, std and absmax are NaN and the norm is 0. If the sum of squares overflows float64
(finite magnitudes above 1e154), rms, norm and std are inf.
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Floats", "absmax", "finite_count", "mean", "norm", "rms", "std", "update_ratio"]

Floats: TypeAlias = NDArray[np.float64]


def finite_count(count: Floats, nan: Floats, posinf: Floats, neginf: Floats) -> Floats:
    """Return the number of finite elements."""
    return count - nan - posinf - neginf


def mean(total: Floats, finite: Floats) -> Floats:
    """Return the mean of the finite elements; NaN if there are none."""
    return _divide(total, finite)


def rms(sumsq: Floats, finite: Floats) -> Floats:
    """Return the root of the mean square of the finite elements; NaN if there are none."""
    return np.sqrt(_divide(sumsq, finite))


def std(total: Floats, sumsq: Floats, finite: Floats) -> Floats:
    """Return the population standard deviation; a variance that rounding makes negative counts as 0."""
    mean_square = _divide(sumsq, finite)
    with np.errstate(over="ignore", invalid="ignore"):
        variance = mean_square - np.square(_divide(total, finite))
    return np.sqrt(np.where(np.isinf(mean_square), np.inf, np.maximum(variance, 0.0)))


def norm(sumsq: Floats) -> Floats:
    """Return the Euclidean norm of the finite elements."""
    return np.sqrt(sumsq)


def absmax(least: Floats, greatest: Floats, finite: Floats) -> Floats:
    """Return the greatest magnitude among the finite elements; NaN if there are none."""
    return np.where(finite > 0, np.maximum(np.abs(least), np.abs(greatest)), np.nan)


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
