"""Keeps the observed steps of all ranks the same.

Rank 0 proposes the interval of observed steps and the interval of focus steps; all ranks adopt them at
the same step.
"""

import time
from functools import partial

from gradscope.agent.commands.consensus import Consensus
from gradscope.agent.commands.queue import Boundary, PendingCommand, Prepared, ignore_done
from gradscope.agent.step.plugins import StepPlugin
from gradscope.budget import Sampler
from gradscope.errors import UsageError

__all__ = ["SharedInterval"]

_KIND = "every"
_PROPOSED_EVERY_S = 1.0
_MIN_RATIO = 1.2
"""An interval is proposed only if it differs from the current one by at least this factor."""


class SharedInterval(StepPlugin):
    """Keeps the intervals of a sampler equal on all ranks."""

    name = "the steps that all ranks observe"

    def __init__(self, consensus: Consensus, sampler: Sampler) -> None:
        self._consensus = consensus
        self._sampler = sampler
        self._proposed_s = -_PROPOSED_EVERY_S
        consensus.register(_KIND, self._prepare)

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:  # noqa: ARG002 - signature of a plugin
        """On the first rank: propose the intervals that the sampler wants, if they differ enough."""
        sampler = self._sampler
        wanted = sampler.wanted, sampler.wanted_focus
        present = sampler.every, sampler.focus_every
        if wanted == present or self._consensus.rank != 0:
            return
        now_s = time.monotonic()
        is_worth_it = any(map(_differ, wanted, present))
        if is_worth_it and now_s - self._proposed_s >= _PROPOSED_EVERY_S:
            self._proposed_s = now_s
            command = PendingCommand(partial(self._adopt, wanted), ignore_done, _keep_interval)
            self._consensus.submit(_KIND, " ".join(map(str, wanted)), command)

    def _prepare(self, body: str) -> Prepared:
        numbers = [int(word) for word in body.split() if word.isdigit()]
        if len(numbers) != 2 or numbers[0] < 1:
            raise UsageError(
                "expected the interval of observed steps, at least 1, and that of the focus, "
                f"0 for none, got {body!r}"
            )
        return partial(self._adopt, (numbers[0], numbers[1]))

    def _adopt(self, intervals: tuple[int, int], boundary: Boundary) -> None:
        every, focus_every = intervals
        self._sampler.adopt(every, boundary.step, focus_every)
        boundary.done(boundary.step)


def _differ(wanted: int, present: int) -> bool:
    return max(wanted, present) >= _MIN_RATIO * min(wanted, present) and wanted != present


def _keep_interval(reason: str) -> None:
    """Do nothing: the interval is proposed again."""
