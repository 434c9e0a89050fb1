"""What steps of one sort cost beyond those at rest, learnt from the newest of them."""

import math
from collections import deque
from collections.abc import Iterable

__all__ = ["WINDOW", "StepCosts", "median"]

WINDOW = 15
_NEEDED = 2


class StepCosts:
    """Fed with each step of its sort. The first one also allots rows and warms caches: it is left out.

    `inside_s` is the time spent inside the hooks, `whole_s` that of whole steps, `extra_s` what these
    took longer than the steps at rest around them. `believes_after`: so many steps are to be known
    before that difference is believed at all; where it is small against its noise, few tell nothing.
    """

    def __init__(self, *, believes_after: int = 1) -> None:
        self._believes_after = believes_after
        self.inside_s: deque[float] = deque(maxlen=WINDOW)
        self.whole_s: deque[float] = deque(maxlen=WINDOW)
        self.extra_s: deque[float] = deque(maxlen=WINDOW)
        self._is_warm = False

    @property
    def is_known(self) -> bool:
        """Whether enough was learnt to choose by."""
        return len(self.extra_s) >= _NEEDED

    def learn(self, step_time_s: float, inside_s: float, bare_s: Iterable[float]) -> None:
        """Learn from a step; `bare_s` are the times of the steps at rest."""
        if self._is_warm:
            self.whole_s.append(step_time_s)
            self.inside_s.append(inside_s)
            if bare_s:
                self.extra_s.append(step_time_s - median(bare_s))
        self._is_warm = True

    def forget(self, *, is_cold: bool = False) -> None:
        """Forget what was learnt. `is_cold`: the next step allots rows again."""
        for old in (self.inside_s, self.whole_s, self.extra_s):
            old.clear()
        self._is_warm = self._is_warm and not is_cold

    def cost_s(self, idle_s: float) -> float:
        """Return what a step costs beyond one at rest, of which `idle_s` is gradscope's own.

        The difference in time is believed as far as it stands out of its own noise.
        """
        own_s = max(median(self.inside_s) - idle_s, 0.0)
        if len(self.extra_s) < self._believes_after:
            return own_s
        extra_s = median(self.extra_s)
        spread_s = median([abs(each - extra_s) for each in self.extra_s])
        return max(own_s, extra_s - 2.0 * spread_s / math.sqrt(len(self.extra_s)))


def median(values: Iterable[float]) -> float:
    """Return the middle of some numbers; there must be one."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else 0.5 * (ordered[middle - 1] + ordered[middle])
