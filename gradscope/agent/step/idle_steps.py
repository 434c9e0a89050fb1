"""`IdleSteps`: steps in which gradscope only counts, reported in batches.

    counted ─▶ counted ─▶ … ─▶ skip(): the batch is reported, and the next one is planned

The step counter counts idle steps without calling Python code of the engine. `IdleSteps` decides how
many steps the counter may count before it calls the engine again.
"""

import time
from typing import Final

from gradscope.agent.observation.guard import ObservingGuard
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.plugins import StepPlugins

__all__ = ["IdleSteps"]

_BATCH_LIMIT: Final = 64
_DELAY_LIMIT_S: Final = 0.25
"""Maximum time between the end of a step and its report, in seconds; slow steps are reported individually."""


class IdleSteps:
    """Plans batches of idle steps, and reports them to the plugins and the sampler."""

    def __init__(self, run: RunContext, plugins: StepPlugins, guard: ObservingGuard) -> None:
        self._counter = run.counter
        self._sampler = run.sampler
        self._plugins = plugins
        self._guard = guard

    def skip(self) -> None:
        """End the step in progress and begin the next one; both are idle."""
        counter = self._counter
        counter.count()
        counter.spent_s += self._guard.spent_s
        self._guard.spent_s = 0.0
        began_s = time.perf_counter()
        self.report()
        self._plan(counter.step)
        counter.spent_s += time.perf_counter() - began_s

    def report(self) -> None:
        """Report the idle steps counted so far. No more idle steps are counted until `skip` plans them."""
        self._counter.left = 0
        self._guard.run("ending steps", self._report)

    def _report(self) -> None:
        times_s, spent_s, checks, checked_s = self._counter.take()
        if checks:
            self._plugins.call_all("gradients_checked", checks, checked_s)
        if not times_s:
            return
        step = self._counter.step - len(times_s)
        time_s = time.time() - (time.perf_counter() - self._counter.began_s) - sum(times_s)
        for step_time_s in times_s:
            time_s += step_time_s
            self._plugins.call_all("ended", step, time_s, step_time_s)
            step += 1
        self._sampler.record_idle_steps(step - 1, times_s, spent_s / len(times_s))

    def _plan(self, step: int) -> None:
        """Plan idle steps from `step` on, which begins: as many as the limits and plugins allow."""
        pace_s = self._sampler.pace_s
        if pace_s > 0:
            until = min(
                step + min(_BATCH_LIMIT, _DELAY_LIMIT_S / pace_s), self._plugins.next_active_step
            )
            self._counter.left = max(0, int(min(until, self._sampler.next_due(step))) - step - 1)
