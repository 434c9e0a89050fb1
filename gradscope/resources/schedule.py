"""Which steps are measured, so that measuring memory and time costs no more than its share.

A step is measured when it is due, and not a step of which the statistics are taken: those would be
timed, too. The first is measured all the same, because memory usually runs out in it. How often
statistics are taken does not matter: a person who wants them of every step has not asked for times.
"""

import statistics
from collections import deque

from gradscope.budget import Budget, Consumer, interval
from gradscope.budget.budget import (
    COST_WINDOW,
    COSTS_NEEDED,
    RESOURCES_COMPARED_WITH,
    RESOURCES_FIRST,
    RESOURCES_LARGEST_INTERVAL,
    RESOURCES_LEAST_INTERVAL,
    RESOURCES_PATIENCE,
    RESOURCES_SECOND,
)

__all__ = ["MeasuringSchedule"]


class MeasuringSchedule:
    """Chooses the steps to measure: ask `is_due`, tell `record`.

    budget: the fraction of the step time that all of observing may cost; None: no limit.
    every: measure exactly every N steps, instead of what the share allows.
    """

    def __init__(self, budget: float | None, start_step: int, *, every: int | None = None) -> None:
        self._share = Budget(budget).share(Consumer.RESOURCES)
        self._exactly = every
        self._start = start_step
        self._due = start_step
        self._wanted = False
        self._bare_s: deque[float] = deque(maxlen=COST_WINDOW)
        self._observed_s: deque[float] = deque(maxlen=COST_WINDOW)
        self._cost_s: deque[float] = deque(maxlen=COST_WINDOW)
        self.every = every or RESOURCES_LEAST_INTERVAL

    @property
    def next_step(self) -> int:
        """The next step that is due, as things stand."""
        return self._due

    @property
    def looks_from(self) -> int:
        """The first step that matters before the next one is due: the usual time is learnt there."""
        return self._due - RESOURCES_COMPARED_WITH

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
        return step >= self._due and (not is_observed or step >= self._due + RESOURCES_PATIENCE)

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
        if step < self._start + RESOURCES_FIRST:
            return self._start + RESOURCES_FIRST - step
        if len(self._cost_s) < COSTS_NEEDED or not self._usual_s:
            return RESOURCES_SECOND
        allowed_s = self._share * statistics.median(self._usual_s)
        self.every = interval(
            statistics.median(self._cost_s),
            allowed_s,
            least=RESOURCES_LEAST_INTERVAL,
            largest=RESOURCES_LARGEST_INTERVAL,
        )
        return self.every
