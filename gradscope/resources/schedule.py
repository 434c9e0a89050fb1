"""`MeasuringSchedule`: which steps are measured for memory and time, so that the cost stays within its share.

A due step is not measured if it is observed, because the observation would be timed, too; the next unobserved
step is measured instead. The first step is always measured, because memory usually runs out there.
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
    """Chooses the steps to measure: call `is_due` before and `record` after each step.

    budget: the fraction of the step time that all monitoring may cost; None: no limit.
    every: measure exactly every N steps, whatever it costs.
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
        """The next due step, by present costs."""
        return self._due

    @property
    def baseline_from(self) -> int:
        """The first of the steps without measurement whose time the next measured step is compared with."""
        return self._due - RESOURCES_COMPARED_WITH

    @property
    def is_asked(self) -> bool:
        """Whether `ask_now` was called and the next step will be measured for it."""
        return self._wanted

    def ask_now(self) -> None:
        """Measure the next step, whatever it costs."""
        self._wanted = True

    def is_due(self, step: int, *, is_observed: bool) -> bool:
        """Return whether to measure this step. Must be called exactly once for each step."""
        was_wanted, self._wanted = self._wanted, False
        if was_wanted or step == self._start:
            return True
        if self._exactly is not None:
            return (step - self._start) % self._exactly == 0
        return step >= self._due and (not is_observed or step >= self._due + RESOURCES_PATIENCE)

    def record(
        self, step: int, step_time_s: float, inside_s: float, *, was_measured: bool, was_observed: bool
    ) -> None:
        """Record a finished step: its whole time in seconds, and the time that measuring took by its own clock."""
        if not was_measured:
            (self._observed_s if was_observed else self._bare_s).append(step_time_s)
            return
        if step > self._start:
            extra_s = step_time_s - statistics.median(self._bare_s) if self._bare_s else 0.0
            self._cost_s.append(max(inside_s, 0.0 if was_observed else extra_s))
        self._due = step + self._interval(step)

    def cost(self) -> float:
        """Return the present cost of measuring as a fraction of the step time; 0 while unknown."""
        if not self._cost_s or not self._usual_s:
            return 0.0
        return statistics.median(self._cost_s) / (self.every * statistics.median(self._usual_s))

    @property
    def _usual_s(self) -> deque[float]:
        """The times of steps that were not measured: of unobserved steps or, if there are none, of observed ones."""
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
