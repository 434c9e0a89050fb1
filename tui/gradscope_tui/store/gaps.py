"""Gaps: where steps are missing, so that a picture shows a hole and not a line."""

from statistics import median

import numpy as np
from numpy.typing import NDArray

__all__ = ["holes", "with_gaps"]

_HOLE = 3.0
"""A distance of more than this many usual ones is a hole."""

_REACH = 3


def holes(steps: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return each i with a hole between step i and the next.

    It is one when the distance is unusual before and after it. So a change of pace is none: the past
    comes step by step, and live data as often as the screen asks for it.
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
    """Return the values, steps along the first axis, with NaN put in where steps are missing."""
    return np.insert(values, holes(steps) + 1, np.nan, axis=0)
