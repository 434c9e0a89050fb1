"""`ActiveSteps`: chooses the steps in which the flight recorder is active, so that it keeps to the budget.

1024 active steps ─▶ (n - 1) * 32 inactive ─▶ 32 active ─▶ … ; n = 1 if every step is within the share
"""

import statistics
from collections import deque
from typing import Final

from gradscope.budget import Budget, Consumer, Sampler, interval
from gradscope.budget.budget import (
    RECORDER_FIRST_RUN,
    RECORDER_LARGEST_INTERVAL,
    RECORDER_LONGEST_SUSPENSION,
    RECORDER_RUN,
    RECORDER_WHOLE_COST,
)

__all__ = ["ActiveSteps"]

_AT_ONCE: Final = 0
_FORWARDS: Final = 4096  # whose times are kept


class ActiveSteps:
    """Runs of active and inactive steps. Without a budget, every step is active.

    Attributes:
        is_suspended: whether it is inactive because of `suspend`.
        is_active: whether the recorder is active in the step in progress.
        every: one step of this number is active, on average.
        next_switch: the step before which `switch` must be called.
        spent_s: the time that the recorder has taken for each forward in this run of active steps.
    """

    def __init__(self, sampler: Sampler, step: int) -> None:
        self._sampler = sampler
        fraction = sampler.budget
        self._share = None if fraction is None else Budget(fraction).share(Consumer.RECORDER)
        self._began = step
        self._suspension = RECORDER_RUN
        self._must_suspend = False
        self.is_suspended = False
        self.is_active = True
        self.every = 1
        self.next_switch = step + RECORDER_FIRST_RUN
        self.spent_s: deque[float] = deque(maxlen=_FORWARDS)

    @property
    def words(self) -> str:
        """Which steps are active, as a clause; empty if all are."""
        if self.every == 1:
            return ""
        return f"the flight recorder is active in 1 of {self.every} steps, to keep to the budget"

    def suspend(self) -> None:
        """Become inactive at the next step, because the known fault continues. Each time for more steps."""
        self._must_suspend = self.is_active
        self.next_switch = _AT_ONCE

    def resume(self) -> None:
        """Become active at the next step."""
        if not self.is_active:
            self.next_switch = _AT_ONCE

    def switch(self, step: int) -> None:
        """Begin the next run of steps with `step`."""
        steps, spent_s = max(1, step - self._began), self.spent_s
        self._began, self.spent_s = step, deque(maxlen=_FORWARDS)
        self.is_suspended = self._must_suspend
        if self._must_suspend:
            self._must_suspend, self.is_active = False, False
            self.next_switch = step + self._suspension
            self._suspension = min(2 * self._suspension, RECORDER_LONGEST_SUSPENSION)
        elif self.is_active:
            if (
                spent_s
            ):  # the median, because another process may interrupt a few of them for milliseconds
                inside_s = statistics.median_low(spent_s) * len(spent_s) / steps
                self._learn(RECORDER_WHOLE_COST * inside_s)
            self.is_active = self.every == 1
            self.next_switch = step + RECORDER_RUN * max(1, self.every - 1)
        else:
            self.is_active = True
            self.next_switch = step + RECORDER_RUN

    def _learn(self, cost_s: float) -> None:
        """Choose the interval from the cost of an active step, and count it in the budget."""
        pace_s = self._sampler.pace_s
        if self._share is None or pace_s <= 0:
            return
        used = self._sampler.set_aside_for("nonfinite check")
        allowed_s = (self._share - used) * pace_s
        self.every = interval(cost_s, allowed_s, largest=RECORDER_LARGEST_INTERVAL)
        self._sampler.set_aside(cost_s / self.every / pace_s, "flight recorder")
