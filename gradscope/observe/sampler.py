"""Which steps to observe, so that observing costs no more than a fraction of the time.

Each observed step is compared with the unobserved ones just before it, so that a training that becomes
slower or faster is followed. The cost of observing one step is the greater of two medians: that
difference, and the time measured inside the hooks themselves (which noise cannot hide). Every n-th step
is observed, with the least n for which cost / (n · bare time) is within the budget.
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
_BARE_AFTER = 16
"""Where each step may be observed, one is left out after so many, lest the comparison grow old."""


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
        self._bare_s: deque[float] = deque(maxlen=_WINDOW)
        self._extra_s: deque[float] = deque(maxlen=_WINDOW)
        self._inside_s: deque[float] = deque(maxlen=_WINDOW)
        self._observed_s: deque[float] = deque(maxlen=_WINDOW)
        self._since_bare = 0
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
            self._since_bare = 0
            return
        self._since_bare += 1
        if self._is_warm:
            self._observed_s.append(step_time_s)
            self._inside_s.append(inside_s)
            if self._bare_s:
                self._extra_s.append(step_time_s - statistics.median(self._bare_s))
        self._is_warm = True  # the first observed step also allots rows and warms caches
        if self._budget is not None:
            self._every = self._choose(self._budget)
        self._next = step + self._every
        if self._budget is not None and self._since_bare >= _BARE_AFTER:
            self._next = step + max(self._every, 2)

    def cost(self) -> float | None:
        """Return the fraction of the time that observing costs at present; None while not known.

        Where every step is observed there is nothing to compare with: it is the time inside the hooks.
        """
        if not self._inside_s:
            return None
        if self._bare_s and self._extra_s:
            return self._cost_s() / (self._every * statistics.median(self._bare_s))
        return statistics.median(self._inside_s) / statistics.median(self._observed_s)

    def _choose(self, budget: float) -> int:
        if len(self._extra_s) < _NEEDED or len(self._bare_s) < _NEEDED:
            return _FIRST_INTERVAL
        allowed_s = budget * statistics.median(self._bare_s)
        return min(max(math.ceil(self._cost_s() / allowed_s), 1), _LARGEST_INTERVAL)

    def _cost_s(self) -> float:
        return max(statistics.median(self._extra_s), statistics.median(self._inside_s), 0.0)
