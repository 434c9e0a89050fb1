"""Which steps are measured, so that measuring memory and time costs no more than its share.

A step is measured when it is due, and not a step of which the statistics are taken: those would be
timed, too. The first is measured all the same, for whoever runs out of memory does so there.
"""

import math
import statistics
from collections import deque
from typing import Final

__all__ = ["Cadence"]

_SHARE: Final = 0.25
"""This part of the budget is for memory and time; the rest is for the statistics."""

_FIRST_TIMED: Final = 2
"""The first step that is due after the very first: by then the caches are warm."""

_SECOND_TIMED: Final = 12
"""And the next: what the cost is known from."""

_LEAST_INTERVAL: Final = 10
_LARGEST_INTERVAL: Final = 5_000
_WINDOW: Final = 15
_PATIENCE: Final = 20
"""Where every step is observed, a step that is due waits no longer than so many for one that is not."""


class Cadence:
    """Chooses the steps to measure: ask `is_due`, tell `record`.

    budget: the fraction of the step time that all of observing may cost; None: every observed step, and
    none else, is measured.
    """

    def __init__(self, budget: float | None, start_step: int) -> None:
        self._share = None if budget is None else _SHARE * budget
        self._start = start_step
        self._due = start_step
        self._wanted = False
        self._bare_s: deque[float] = deque(maxlen=_WINDOW)
        self._cost_s: deque[float] = deque(maxlen=_WINDOW)
        self.every = 1 if budget is None else _LEAST_INTERVAL

    @property
    def next_step(self) -> int:
        """The next step that is due, as things stand."""
        return self._due

    def ask_now(self) -> None:
        """Have the next step measured, whatever it costs."""
        self._wanted = True

    def is_due(self, step: int, *, is_observed: bool) -> bool:
        """Whether to measure this step; asked once for each."""
        was_wanted, self._wanted = self._wanted, False
        if was_wanted or step == self._start:
            return True
        if self._share is None:
            return is_observed
        return step >= self._due and (not is_observed or step >= self._due + _PATIENCE)

    def record(
        self, step: int, step_time_s: float, inside_s: float, *, was_measured: bool, was_observed: bool
    ) -> None:
        """Learn from a finished step: its whole time, and what measuring took by its own clock."""
        if not was_measured:
            if not was_observed:
                self._bare_s.append(step_time_s)
            return
        if step > self._start:
            extra_s = step_time_s - statistics.median(self._bare_s) if self._bare_s else 0.0
            self._cost_s.append(max(inside_s, 0.0 if was_observed else extra_s))
        self._due = step + self._interval(step)

    def cost(self) -> float:
        """Return the fraction of the time that measuring costs at present; 0 while not known."""
        if not self._cost_s or not self._bare_s:
            return 0.0
        return statistics.median(self._cost_s) / (self.every * statistics.median(self._bare_s))

    def _interval(self, step: int) -> int:
        if self._share is None:
            return 1
        if step < self._start + _FIRST_TIMED:
            return self._start + _FIRST_TIMED - step
        if len(self._cost_s) < 2 or not self._bare_s:
            return _SECOND_TIMED
        allowed_s = self._share * statistics.median(self._bare_s)
        wanted = (
            math.ceil(statistics.median(self._cost_s) / allowed_s) if allowed_s else _LARGEST_INTERVAL
        )
        self.every = min(max(wanted, _LEAST_INTERVAL), _LARGEST_INTERVAL)
        return self.every
