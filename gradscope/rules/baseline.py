"""`Baseline`: the usual level and spread of each value, from earlier observed steps.

For a positive value x, the baseline keeps the running mean m and deviation s of log(x), over about fifty
steps. A value far above the baseline is included as if it were at the limit: a single spike does not
change the level, a lasting change slowly does.
"""

from collections.abc import Sequence

import numpy as np

from gradscope.rules.step_view import Floats, any_of

__all__ = ["Baseline"]

_MEMORY = 50
_NEEDED = 20
_DEVIATIONS = 6.0


class Baseline:
    """Baselines of the values of layers or scalars. New names reset it."""

    def __init__(self) -> None:
        self._layers: Sequence[str] | None = None
        self._mean = np.empty(0)
        self._variance = np.empty(0)
        self._count = np.empty(0)
        self.first_level: float | None = None
        self.was_in_range = False

    def excess(self, layers: Sequence[str], values: Floats, factor: float) -> Floats:
        """Return the ratio of each value to its baseline, and add the values to the baseline.

        The ratio is NaN if the value is not measured or not positive, if the baseline has fewer than 20
        values, or if the value is at most `factor` times or at most six deviations above the baseline.
        """
        if self._layers is not layers and self._layers != layers:
            self._reset(layers)
        positive = np.isfinite(values) & (values > 0)
        logs = np.log(values, where=positive, out=np.full(len(values), np.nan))
        with np.errstate(invalid="ignore"):
            above = logs - self._mean
            limit = np.maximum(np.log(factor), _DEVIATIONS * np.sqrt(self._variance))
            is_above = positive & (self._count >= _NEEDED) & (above > limit)
        if not any_of(is_above):  # the fast path
            self._add_values(logs, positive)
            return np.full(len(values), np.nan)
        self._add_values(np.where(is_above, self._mean + limit, logs), positive)
        return np.where(is_above, np.exp(np.minimum(above, 700.0)), np.nan)

    def _reset(self, layers: Sequence[str]) -> None:
        self._layers = layers
        self._mean, self._variance, self._count = (np.zeros(len(layers)) for _ in range(3))

    def _add_values(self, logs: Floats, is_there: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        """Update mean and variance: plain averages for the first 50 values, exponential ones after."""
        self._count += is_there
        weight = np.where(is_there, 1.0 / np.minimum(np.maximum(self._count, 1.0), _MEMORY), 0.0)
        change = np.where(is_there, logs - self._mean, 0.0)
        self._mean += weight * change
        self._variance = (1.0 - weight) * (self._variance + weight * change * change)
