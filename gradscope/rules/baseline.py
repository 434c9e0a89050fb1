"""`Baseline`: what a rule remembers of earlier readings: the usual level of each number, and its spread.

Of a number x that is positive, the logarithm's running mean m and deviation s are kept, over about
fifty readings. What stands far above its past is taken in as if it stood just above it: one spike does
not become the usual level, a lasting change slowly does.
"""

from collections.abc import Sequence

import numpy as np

from gradscope.rules.step_view import Floats, any_of

__all__ = ["Baseline"]

_MEMORY = 50
_NEEDED = 20
_DEVIATIONS = 6.0


class Baseline:
    """Numbers by layer, or a single one. Another model's layers begin anew."""

    def __init__(self) -> None:
        self._layers: Sequence[str] | None = None
        self._mean = np.empty(0)
        self._variance = np.empty(0)
        self._count = np.empty(0)
        self.first_level: float | None = None
        self.has_been_well = False

    def excess(self, layers: Sequence[str], values: Floats, factor: float) -> Floats:
        """Return how many times each value stands above its past, and then take the values in.

        NaN: not measured, not positive, too little past, or no more than six deviations above. A value
        counts as above only at more than `factor` times.
        """
        if self._layers is not layers and self._layers != layers:
            self._begin(layers)
        positive = np.isfinite(values) & (values > 0)
        logs = np.log(values, where=positive, out=np.full(len(values), np.nan))
        with np.errstate(invalid="ignore"):
            above = logs - self._mean
            limit = np.maximum(np.log(factor), _DEVIATIONS * np.sqrt(self._variance))
            is_above = positive & (self._count >= _NEEDED) & (above > limit)
        if not any_of(is_above):  # as nearly always
            self._take(logs, positive)
            return np.full(len(values), np.nan)
        self._take(np.where(is_above, self._mean + limit, logs), positive)
        return np.where(is_above, np.exp(np.minimum(above, 700.0)), np.nan)

    def _begin(self, layers: Sequence[str]) -> None:
        self._layers = layers
        self._mean, self._variance, self._count = (np.zeros(len(layers)) for _ in range(3))

    def _take(self, logs: Floats, is_there: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        """Average evenly until there is memory enough, then let the oldest fade."""
        self._count += is_there
        weight = np.where(is_there, 1.0 / np.minimum(np.maximum(self._count, 1.0), _MEMORY), 0.0)
        change = np.where(is_there, logs - self._mean, 0.0)
        self._mean += weight * change
        self._variance = (1.0 - weight) * (self._variance + weight * change * change)
