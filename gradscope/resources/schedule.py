"""Which steps are measured, so that measuring memory and time costs no more than its share.

A step is measured when it is due, and not a step of which the statistics are taken: those would be
timed, too. The first is measured all the same, for whoever runs out of memory does so there. How often
statistics are taken does not matter: a person who wants them of every step has not asked for times.
"""

import math
import statistics
from collections import deque
from typing import Final

__all__ = ["MeasuringSchedule"]

_SHARE: Final = 0.25
"""This part of the budget is for memory and time; the rest is for the statistics."""

_USUAL_BUDGET: Final = 0.02
"""The budget that the share is of where statistics have none."""

_FIRST_TIMED: Final = 2
"""The first step that is due after the very first: by then the caches are warm."""

_SECOND_TIMED: Final = 12
"""And the next: what the cost is known from."""

_LEAST_INTERVAL: Final = 10
_LARGEST_INTERVAL: Final = 5_000
_WINDOW: Final = 15
_LEARNT_FROM: Final = 5
"""So many steps before one that is due are enough to know the usual time by."""

_PATIENCE: Final = 20
"""Where every step is observed, a step that is due waits no longer than so many for one that is not."""


class MeasuringSchedule:
    """Chooses the steps to measure: ask `is_due`, tell `record`.

    budget: the fraction of the step time that all of observing may cost; None: no limit.
    every: measure exactly every so many steps, instead of what the share allows.
    """

    def __init__(self, budget: float | None, start_step: int, *, every: int | None = None) -> None:
        self._share = _SHARE * (budget or _USUAL_BUDGET)
        self._exactly = every
        self._start = start_step
        self._due = start_step
        self._wanted = False
        self._bare_s: deque[float] = deque(maxlen=_WINDOW)
        self._observed_s: deque[float] = deque(maxlen=_WINDOW)
        self._cost_s: deque[float] = deque(maxlen=_WINDOW)
        self.every = every or _LEAST_INTERVAL

    @property
    def next_step(self) -> int:
        """The next step that is due, as things stand."""
        return self._due

    @property
    def looks_from(self) -> int:
        """The first step that matters before the next one is due: the usual time is learnt there."""
        return self._due - _LEARNT_FROM

    @property
    def is_asked(self) -> bool:
        """Whether the next step is to be measured because somebody asked for it."""
        return self._wanted

    def ask_now(self) -> None:
        """Have the next step measured, whatever it costs."""
        self._wanted = True

    def is_due(self, step: int, *, is_observed: bool) -> bool:
        """Whether to measure this step; asked once for each."""
        was_wanted, self._wanted = self._wanted, False
        if was_wanted or step == self._start:
            return True
        if self._exactly is not None:
            return (step - self._start) % self._exactly == 0
        return step >= self._due and (not is_observed or step >= self._due + _PATIENCE)

    def record(
        self, step: int, step_time_s: float, inside_s: float, *, was_measured: bool, was_observed: bool
    ) -> None:
        """Learn from a finished step: its whole time, and what measuring took by its own clock."""
        if not was_measured:
            (self._observed_s if was_observed else self._bare_s).append(step_time_s)
            return
        if step > self._start:
            extra_s = step_time_s - statistics.median(self._bare_s) if self._bare_s else 0.0
            self._cost_s.append(max(inside_s, 0.0 if was_observed else extra_s))
        self._due = step + self._interval(step)

    def cost(self) -> float:
        """Return the fraction of the time that measuring costs at present; 0 while not known."""
        if not self._cost_s or not self._usual_s:
            return 0.0
        return statistics.median(self._cost_s) / (self.every * statistics.median(self._usual_s))

    @property
    def _usual_s(self) -> deque[float]:
        """The times of steps that were not measured: of observed ones where there are no others."""
        return self._bare_s or self._observed_s

    def _interval(self, step: int) -> int:
        if self._exactly is not None:
            return self._exactly - (step - self._start) % self._exactly
        if step < self._start + _FIRST_TIMED:
            return self._start + _FIRST_TIMED - step
        if len(self._cost_s) < 2 or not self._usual_s:
            return _SECOND_TIMED
        allowed_s = self._share * statistics.median(self._usual_s)
        wanted = (
            math.ceil(statistics.median(self._cost_s) / allowed_s) if allowed_s else _LARGEST_INTERVAL
        )
        self.every = min(max(wanted, _LEAST_INTERVAL), _LARGEST_INTERVAL)
        return self.every
