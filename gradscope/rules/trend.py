"""`Trend`: the recent level and the noise of each value, from earlier steps.

Both are kept for log(x) of a positive value x. The level follows the last eight values or so. The noise is the
deviation estimated from differences between consecutive values, which a slow fall or rise does not enlarge. The record
is the largest recent distance above the level. A value
far above the level is included as if it were at the limit: a single spike does not change the level, a lasting
change soon does.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gradscope.rules.step_view import Floats, StepView, any_of

__all__ = ["ScalarTrend", "Trend", "Turns"]

_LEVEL_MEMORY = 8
_NOISE_MEMORY = 50
_NEEDED = 10
_RECORDS = 1.5
"""A value must be this many times as far above its level, in logarithms, as any of the newest 200 or so. The noise of
squared errors and of rewards has tails for which deviations say little."""
_RECORD_MEMORY = 4 * _NOISE_MEMORY
_DEVIATIONS = 6.0
"""For normal noise, a value is 6 deviations above its level once in 10^9; a run has 10^6 or so."""


class ScalarTrend:
    """The trend of one logged number. It is plain Python, because it runs in each step that logs a loss.

    Its noise is also measured over eight steps, because the losses of several passes over one batch (PPO) differ
    little. The second difference of x, x[t] - 2 x[t - 8] + x[t - 16], does not contain a steady fall; the variance of
    independent values is a sixth of its square.
    """

    def __init__(self) -> None:
        self._level = self._last = self._variance = self._record = self._wide_variance = 0.0
        self._count = 0
        self._newest: deque[float] = deque(maxlen=2 * _LEVEL_MEMORY + 1)

    def excess(self, value: float, factor: float) -> float:
        """Return the ratio of a positive value to its level, as `Trend.excess`; 0 instead of NaN. Add the value."""
        log, count = math.log(value), self._count
        above = log - max(self._level, self._last)
        is_above = False
        if count >= _NEEDED:
            certain = _DEVIATIONS * (1.0 + _NEEDED / count)
            deviation = math.sqrt(max(self._variance, self._wide_variance))
            limit = max(math.log(factor), certain * deviation, _RECORDS * self._record)
            is_above = above > limit
            log = self._level + limit if is_above else log
        if count > 1:
            self._record = max(
                self._record * (1.0 - 1.0 / _RECORD_MEMORY), log - max(self._level, self._last)
            )
        self._count = count = count + 1
        self._level += (log - self._level) / min(count, _LEVEL_MEMORY)
        if count > 1:
            change = log - self._last
            self._variance += (change * change / 2.0 - self._variance) / min(count - 1, _NOISE_MEMORY)
        self._last = log
        self._newest.append(log)
        wide = count - 2 * _LEVEL_MEMORY
        if wide > 0:
            change = self._newest[0] - 2.0 * self._newest[_LEVEL_MEMORY] + log
            self._wide_variance += (change * change / 6.0 - self._wide_variance) / min(
                wide, _NOISE_MEMORY
            )
        return math.exp(min(above, 700.0)) if is_above else 0.0


class Trend:
    """Levels and noise of the values of layers or scalars. Other names reset it."""

    def __init__(self) -> None:
        self._layers: Sequence[str] | None = None
        self._step = 0
        self._usual_gap = 0.0
        self._level = np.empty(0)
        self._last = np.empty(0)
        self._variance = np.empty(0)
        self._record = np.empty(0)
        self._count = np.empty(0)

    def excess(self, layers: Sequence[str], values: Floats, factor: float, step: int) -> Floats:
        """Return the ratio of each value of a step to its level, and add the values to the trend.

        The ratio is NaN if the value is not measured or not positive, if there are fewer than 10 earlier
        values, or if the value is at most `factor` times, six deviations or 1.5 records above the level.
        With n earlier values the deviation is uncertain: the limit is 1 + 10 / n times six deviations. After a gap of n
        times the usual one, the level may have moved, and the deviation is sqrt(n) times as large, as in a random walk.
        """
        if self._layers is not layers and self._layers != layers:
            self._reset(layers)
        positive = np.isfinite(values) & (values > 0)
        logs = np.log(values, where=positive, out=np.full(len(values), np.nan))
        with np.errstate(invalid="ignore", divide="ignore"):
            above = logs - np.maximum(self._level, self._last)
            certain = _DEVIATIONS * (1.0 + _NEEDED / self._count)
            limit = np.maximum(
                np.log(factor), certain * np.sqrt(self._variance * self._longer_gap(step))
            )
            limit = np.maximum(limit, _RECORDS * self._record)
            is_above = positive & (self._count >= _NEEDED) & (above > limit)
        if not any_of(is_above):  # the fast path
            self._add_values(logs, positive)
            return np.full(len(values), np.nan)
        self._add_values(np.where(is_above, self._level + limit, logs), positive)
        return np.where(is_above, np.exp(np.minimum(above, 700.0)), np.nan)

    def rise_of_all(self, layers: Sequence[str], values: Floats) -> float:
        """Return the root of the sum of squares of all values relative to that of their levels; 0 without levels."""
        if self._layers is not layers and self._layers != layers:
            return 0.0
        is_known = np.isfinite(values) & (self._count >= _NEEDED)
        usual = float(np.exp(2.0 * self._level[is_known]).sum())
        return math.sqrt(float(np.square(values[is_known]).sum()) / usual) if usual else 0.0

    def _longer_gap(self, step: int) -> float:
        """Return how many times longer than usual the gap before this step is; at least 1."""
        gap, self._step = step - self._step, step
        longer = max(1.0, gap / self._usual_gap) if self._usual_gap else 1.0
        self._usual_gap += (gap - self._usual_gap) / _NOISE_MEMORY if self._usual_gap else gap
        return longer

    def _reset(self, layers: Sequence[str]) -> None:
        self._layers = layers
        arrays = (np.zeros(len(layers)) for _ in range(5))
        self._level, self._last, self._variance, self._record, self._count = arrays

    def _add_values(self, logs: Floats, is_there: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> None:
        """Update level, noise and record: plain averages for the first values, exponential ones after."""
        above = np.where(is_there, logs - np.maximum(self._level, self._last), 0.0)
        kept = self._record * np.where(is_there, 1.0 - 1.0 / _RECORD_MEMORY, 1.0)
        self._record = np.where(is_there & (self._count > 1), np.maximum(kept, above), self._record)
        self._count += is_there
        count = np.maximum(self._count, 1.0)
        weight = np.where(is_there, 1.0 / np.minimum(count, _LEVEL_MEMORY), 0.0)
        self._level += weight * np.where(is_there, logs - self._level, 0.0)
        has_last = is_there & (self._count > 1)
        weight = np.where(has_last, 1.0 / np.clip(self._count - 1.0, 1.0, _NOISE_MEMORY), 0.0)
        change = np.where(has_last, logs - self._last, 0.0)
        self._variance += weight * (change * change / 2.0 - self._variance)
        self._last = np.where(is_there, logs, self._last)


@dataclass(slots=True)
class Turns:
    """Whether networks are updated in turn: the updated layers of two steps have none in common.

    Such networks play against each other, or follow each other's output. Their losses and gradients may jump.
    """

    layers: Sequence[str] = ()
    first: Floats | None = None
    are_taken: bool = False

    def add(self, view: StepView) -> None:
        """Add an observed step."""
        update = np.nan_to_num(view.by_layer("update", "norm"))
        if not any_of(update):
            return
        if self.first is None or self.layers is not view.layers:
            self.layers, self.first, self.are_taken = view.layers, update, False
        self.are_taken = self.are_taken or not any_of(update * self.first)
