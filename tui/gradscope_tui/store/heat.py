"""`Heat` measures how far each number is from its own past values, for all nodes at once.

For each number, `Heat` keeps a running mean and standard deviation of its logarithm over about `_MEMORY`
steps. The heat is the distance in deviations as a level: 0 is usual, 1 to 3 above, -1 to -3 below.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["Heat"]

_MEMORY = 50.0
_LEAST_PAST = 8
"""With fewer steps the heat is 0."""

_FLOOR = 0.05
"""The lowest deviation: 5 %, so that a small change of an almost constant number is not hot."""

_BORDERS = np.array([3.0, 6.0, 12.0])


class Heat:
    """The running mean and deviation of `width` numbers."""

    def __init__(self, width: int) -> None:
        self._count = np.zeros(width)
        self._mean = np.zeros(width)
        self._variance = np.zeros(width)

    def next_levels(self, values: NDArray[np.float64]) -> NDArray[np.int8]:
        """Return the heat of the next numbers; add them to the past. NaN has heat 0 and is not added."""
        known = ~np.isnan(values)
        logs = np.log(np.where(known & (values > 0), values, 1.0))
        logs = np.where(
            known & (values <= 0), self._mean - 1.0, logs
        )  # zero has no logarithm: it counts as far below
        distance = logs - self._mean
        deviations = distance / np.sqrt(self._variance + _FLOOR**2)
        deviations[known & (values <= 0)] = -np.inf
        level = np.searchsorted(_BORDERS, np.abs(deviations), side="right") * np.sign(deviations)
        heat = np.where(known & (self._count >= _LEAST_PAST), level, 0).astype(np.int8)
        self._remember(known & (values > 0), distance)
        return heat

    def _remember(self, usable: NDArray[np.bool_], distance: NDArray[np.float64]) -> None:
        weight = np.maximum(1.0 / (self._count + 1.0), 1.0 / _MEMORY)
        step = np.where(usable, weight * distance, 0.0)
        grown = (1.0 - weight) * (self._variance + weight * np.square(distance))
        self._variance = np.where(usable, grown, self._variance)
        self._mean += step
        self._count += usable
