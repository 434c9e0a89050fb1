"""`CheckSchedule`: chooses the steps in which gradients are checked if checking every step costs too much."""

import statistics
from collections import deque

from gradscope.budget import Budget, Consumer, Sampler, interval
from gradscope.budget.budget import (
    CHECK_ALWAYS_AGAIN,
    CHECK_LARGEST_INTERVAL,
    CHECK_WINDOW,
    COSTS_NEEDED,
)

__all__ = ["CheckSchedule"]


class CheckSchedule:
    """Chooses the steps in which all gradients are checked: every `every` steps.

    Without a budget, every step is checked.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        fraction = sampler.budget
        self._share = None if fraction is None else Budget(fraction).share(Consumer.NONFINITE)
        self._costs_s: deque[float] = deque(maxlen=CHECK_WINDOW)
        self.every = 1

    @property
    def largest(self) -> int:
        """The largest interval that may be chosen."""
        return 1 if self._share is None else CHECK_LARGEST_INTERVAL

    @property
    def words(self) -> str:
        """A sentence for users if some steps are not checked, else an empty string."""
        if self.every == 1:
            return ""
        return f"gradients are checked every {self.every} steps, to keep to the budget"

    def learn(self, check_s: float) -> None:
        """Update the measured cost of one check of all gradients, in seconds."""
        if self._share is None:
            return
        self._costs_s.append(check_s)
        allowed_s = self._share * self._sampler.pace_s
        if len(self._costs_s) < COSTS_NEEDED or allowed_s <= 0:
            return
        cost_s = statistics.median_low(self._costs_s)
        if cost_s <= allowed_s * (1.0 if self.every == 1 else CHECK_ALWAYS_AGAIN):
            self.every = 1
        else:
            self.every = interval(cost_s, allowed_s, least=2, largest=self.largest)
