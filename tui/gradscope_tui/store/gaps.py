"""Gaps: places in a series where steps are missing, so that a plot does not draw a line across them."""

from statistics import median

import numpy as np
from numpy.typing import NDArray

__all__ = ["gap_places", "with_gaps"]

_HOLE = 3.0
"""A distance of more than this many times the usual one is a gap."""

_REACH = 3


def gap_places(steps: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return each i with a gap between `steps[i]` and the next step.

    A distance is a gap if it is unusual compared with those before and after it. A change of pace is not
    a gap: a backfill has every step, live data four steps per second.
    """
    distances = np.diff(steps).tolist()
    return np.array(
        [
            i
            for i in range(1, len(distances) - 1)
            if distances[i] > 1
            and distances[i] > _HOLE * median(distances[max(0, i - _REACH) : i])
            and distances[i] > _HOLE * median(distances[i + 1 : i + 1 + _REACH])
        ],
        np.intp,
    )


def with_gaps(steps: NDArray[np.int64], values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the values, steps along the first axis, with a NaN inserted at each gap."""
    return np.insert(values, gap_places(steps) + 1, np.nan, axis=0)
