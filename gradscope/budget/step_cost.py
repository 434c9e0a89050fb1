"""`StepCosts`: the extra cost of one kind of step over an idle step, from the newest steps of that kind."""

import math
from collections import deque
from collections.abc import Iterable

from gradscope.budget.budget import COST_WINDOW, COSTS_NEEDED

__all__ = ["StepCosts", "median"]


class StepCosts:
    """Costs of the newest steps of one kind. The first step also allocates rows and warms caches, so it is ignored.

    `inside_s` is the time inside the hooks, `whole_s` the time of whole steps, `extra_s` the difference to the idle
    steps around them. `believes_after`: that difference is used if at least this number of steps is known.
    """

    def __init__(self, *, believes_after: int = 1) -> None:
        self._believes_after = believes_after
        self.inside_s: deque[float] = deque(maxlen=COST_WINDOW)
        self.whole_s: deque[float] = deque(maxlen=COST_WINDOW)
        self.extra_s: deque[float] = deque(maxlen=COST_WINDOW)
        self._is_warm = False

    @property
    def is_known(self) -> bool:
        """Whether enough costs are known to derive an interval."""
        return len(self.extra_s) >= COSTS_NEEDED

    def learn(self, step_time_s: float, inside_s: float, bare_s: Iterable[float]) -> None:
        """Record a step; `bare_s` are the times of idle steps."""
        if self._is_warm:
            self.whole_s.append(step_time_s)
            self.inside_s.append(inside_s)
            if bare_s:
                self.extra_s.append(step_time_s - median(bare_s))
        self._is_warm = True

    def forget(self, *, is_cold: bool = False) -> None:
        """Discard all costs. `is_cold`: the next step allocates rows again."""
        for old in (self.inside_s, self.whole_s, self.extra_s):
            old.clear()
        self._is_warm = self._is_warm and not is_cold

    def cost_s(self, idle_s: float) -> float:
        """Return the extra cost of a step over an idle step, in which gradscope itself takes `idle_s`.

        The time difference is used only as far as it exceeds its own noise.
        """
        own_s = max(median(self.inside_s) - idle_s, 0.0)
        if len(self.extra_s) < self._believes_after:
            return own_s
        extra_s = median(self.extra_s)
        spread_s = median([abs(each - extra_s) for each in self.extra_s])
        return max(own_s, extra_s - 2.0 * spread_s / math.sqrt(len(self.extra_s)))


def median(values: Iterable[float]) -> float:
    """Return the median of at least one number."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])
