"""Steps at rest: nothing is to be done in them but to count them, which is done for many at once.

    counted ─▶ counted ─▶ … ─▶ passes: told of, and more of them planned
                  └─ something was asked for ─▶ told of, and an ordinary step begins

The tally counts; here it is said how many it may count, and told of what it has counted.
"""

import time
from collections.abc import Callable
from typing import Final, TypeAlias

from gradscope.agent.step.hook_callbacks import HookCallbacks
from gradscope.agent.step.step_counter import StepCounter
from gradscope.agent.step.wakeups import Roll
from gradscope.budget import Sampler

__all__ = ["IdleSteps", "OnEnd"]

OnEnd: TypeAlias = Callable[[int, float, float], None]
"""Takes a step that has ended, when that was in seconds since 1970, and how long it took in seconds."""

_MOST: Final = 64
_LATE_S: Final = 0.1
"""So late a step is told of, at most: slow steps are told of one by one."""


class IdleSteps:
    """Plans steps at rest. `on_end` is told of each, in order, and the sampler learns from them.

    `on_looks(looks, looked_s)`: how often the tally has looked at gradients, and how long that took.

    `may_rest()`: whether there is nothing to do at this boundary, as far as the roll and the sampler do
    not know.
    """

    def __init__(
        self,
        tally: StepCounter,
        roll: Roll,
        sampler: Sampler,
        observing: HookCallbacks,
        *,
        on_end: OnEnd,
        on_looks: Callable[[int, float], None],
        may_rest: Callable[[], bool],
    ) -> None:
        self._tally = tally
        self._roll = roll
        self._sampler = sampler
        self._observing = observing
        self._on_end = on_end
        self._on_looks = on_looks
        self._may_rest = may_rest

    def passes(self) -> bool:
        """End the step in progress and begin another, where both are at rest; else return False."""
        tally, roll = self._tally, self._roll
        step = tally.step + 1
        tally.is_stirred = False  # what was asked for is seen now, or is asked for after this
        if (
            tally.awake
            or step >= roll.wakes_at
            or not self._may_rest()
            or self._sampler.next_due(step) <= step
        ):
            self.tell()
            return False
        tally.count()
        tally.spent_s += self._observing.inside_s
        self._observing.inside_s = 0.0
        began_s = time.perf_counter()
        self.tell()
        self._plan(step)
        tally.spent_s += time.perf_counter() - began_s
        return True

    def tell(self) -> None:
        """Tell of the steps that were counted. No more are until `passes` has looked again."""
        self._tally.left = 0
        self._observing.guarded("ending steps", self._tell)

    def _tell(self) -> None:
        times_s, spent_s, looks, looked_s = self._tally.take()
        if looks:
            self._on_looks(looks, looked_s)
        if not times_s:
            return
        step = self._tally.step - len(times_s)
        time_s = time.time() - (time.perf_counter() - self._tally.began_s) - sum(times_s)
        for step_time_s in times_s:
            time_s += step_time_s
            self._on_end(step, time_s, step_time_s)
            step += 1
        self._sampler.record_rest(step - 1, times_s, spent_s / len(times_s))

    def _plan(self, step: int) -> None:
        """Let steps be at rest from `step` on, which begins; as many as may be."""
        pace_s = self._sampler.pace_s
        if pace_s > 0:
            until = min(step + min(_MOST, _LATE_S / pace_s), self._roll.wakes_at)
            self._tally.left = max(0, int(min(until, self._sampler.next_due(step))) - step - 1)
