"""The histogram of the binary exponent: the number of elements in each binade, for each sign.

A row has 128 bins: 0 to 63 for positive elements, 64 to 127 for negative ones. Within a sign, bin k
holds the finite nonzero elements with floor(log2|x|) == k - 47, from 2^-47 up to 2^17; the first bin
also holds smaller elements, the last one larger ones. Zeros, NaN and infinities are in no bin.
"""

from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BINADES",
    "HISTOGRAM_BINS",
    "LEAST_EXPONENT",
    "Histograms",
    "add_by_group",
    "binades_of",
    "of_both_signs",
]

BINADES: Final = 64
"""Bins of one sign."""

HISTOGRAM_BINS: Final = 2 * BINADES

LEAST_EXPONENT: Final = -47
"""The exponent of the first bin of a sign."""

Histograms: TypeAlias = NDArray[np.uint64]
"""Shape (rows, HISTOGRAM_BINS)."""


def of_both_signs(histograms: Histograms) -> Histograms:
    """Return the sum of the counts of positive and negative elements, shape (..., BINADES)."""
    return histograms[..., :BINADES] + histograms[..., BINADES:]


def binades_of(bins: tuple[int, ...]) -> dict[int, int]:
    """Return one row's nonempty bins as {exponent: count}, with both signs added."""
    pairs = zip(bins[:BINADES], bins[BINADES:], strict=True)
    both = (positive + negative for positive, negative in pairs)
    return {exponent: many for exponent, many in enumerate(both, LEAST_EXPONENT) if many}


def add_by_group(histograms: Histograms, groups: NDArray[np.intp], group_count: int) -> Histograms:
    """Return the sum of the rows of each group, shape (group_count, HISTOGRAM_BINS)."""
    sums = np.zeros((group_count, HISTOGRAM_BINS), np.uint64)
    if len(groups):
        order = np.argsort(groups, kind="stable")
        found, starts = np.unique(groups[order], return_index=True)
        sums[found] = np.add.reduceat(histograms[order], starts, axis=0)
    return sums
