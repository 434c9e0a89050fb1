"""Which steps to observe, so that observing costs no more than a fraction of the time.

The sampler compares observed with unobserved steps. The cost of one observed step is the greater of
two figures: the difference of their median times, and the median of the time measured inside the hooks
themselves (which noise cannot hide). A step is observed every so many that cost / (n · bare time) stays
within the budget.
"""

import math
import statistics
from collections import deque

from gradscope.errors import UsageError

__all__ = ["Sampler"]

_WINDOW = 15
_FIRST_INTERVAL = 10
_LARGEST_INTERVAL = 1000
_NEEDED = 2


class Sampler:
    """Chooses the steps to observe: ask `is_due(step)`, tell `record(...)`."""

    def __init__(self, *, budget: float | None = 0.02, every: int | None = None) -> None:
        if every is not None and (not isinstance(every, int) or every < 1):
            raise UsageError(f"every must be a whole number of at least 1, got {every!r}")
        if budget is not None and not 0 < budget < 1:
            raise UsageError(
                f"budget must be a fraction of the step time between 0 and 1, or None, got {budget!r}"
            )
        self._budget = None if every is not None else budget
        self._every = every or (1 if budget is None else _FIRST_INTERVAL)
        self._next = 0
        self._observed_s: deque[float] = deque(maxlen=_WINDOW)
        self._inside_s: deque[float] = deque(maxlen=_WINDOW)
        self._bare_s: deque[float] = deque(maxlen=_WINDOW)
        self._is_warm = False

    @property
    def every(self) -> int:
        """Every how many steps one is observed at present."""
        return self._every

    def is_due(self, step: int) -> bool:
        """Whether to observe this step."""
        return step >= self._next

    def record(self, step: int, step_time_s: float, inside_s: float, *, was_observed: bool) -> None:
        """Learn from a finished step: its whole time, and that part spent inside the hooks."""
        if not was_observed:
            self._bare_s.append(step_time_s)
            return
        if self._is_warm:
            self._observed_s.append(step_time_s)
            self._inside_s.append(inside_s)
        self._is_warm = True  # the first observed step also allots rows and warms caches
        if self._budget is not None:
            self._every = self._choose(self._budget)
        self._next = step + self._every

    def cost(self) -> float | None:
        """Return the fraction of the time that observing costs at present; None while not known."""
        if not self._inside_s:
            return None
        if self._bare_s:
            return self._cost_s() / (self._every * statistics.median(self._bare_s))
        return statistics.median(self._inside_s) / statistics.median(self._observed_s)

    def _choose(self, budget: float) -> int:
        if len(self._inside_s) < _NEEDED or len(self._bare_s) < _NEEDED:
            return _FIRST_INTERVAL
        allowed_s = budget * statistics.median(self._bare_s)
        return min(max(math.ceil(self._cost_s() / allowed_s), 1), _LARGEST_INTERVAL)

    def _cost_s(self) -> float:
        difference_s = statistics.median(self._observed_s) - statistics.median(self._bare_s)
        return max(difference_s, statistics.median(self._inside_s), 0.0)
