"""All ranks observe the same steps: the first of them chooses, and all change their rhythm together.

So it is with the steps in which layers in the focus are measured.
"""

import time
from functools import partial

from gradscope.agent.commands.consensus import Consensus
from gradscope.agent.commands.queue import Change, Prepared, QueuedCommand, nothing_to_tell
from gradscope.agent.step.plugins import StepPlugin
from gradscope.budget import Sampler
from gradscope.errors import UsageError

__all__ = ["SharedInterval"]

_KIND = "every"
_OFTEN_S = 1.0
_WORTH = 1.2
"""What is chosen must differ by this factor from what there is, to be worth asking all ranks."""


class SharedInterval(StepPlugin):
    """Keeps a sampler in step with those of the other ranks."""

    name = "the steps that all ranks observe"

    def __init__(self, agreement: Consensus, sampler: Sampler) -> None:
        self._agreement = agreement
        self._sampler = sampler
        self._asked_s = -_OFTEN_S
        agreement.obey(_KIND, self._prepare)

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:  # noqa: ARG002 - a part's shape
        """On the first rank: propose another rhythm, where one is wanted."""
        sampler = self._sampler
        wanted = sampler.wanted, sampler.wanted_focus
        there_is = sampler.every, sampler.focus_every
        if wanted == there_is or self._agreement.rank != 0:
            return
        now_s = time.monotonic()
        is_worth_it = any(map(_differ, wanted, there_is))
        if is_worth_it and now_s - self._asked_s >= _OFTEN_S:
            self._asked_s = now_s
            change = Change(partial(self._adopt, wanted), nothing_to_tell, _as_it_was)
            self._agreement.submit(_KIND, " ".join(map(str, wanted)), change)

    def _prepare(self, body: str) -> Prepared:
        numbers = [int(word) for word in body.split() if word.isdigit()]
        if len(numbers) != 2 or numbers[0] < 1:
            raise UsageError(
                "expected the interval of observed steps, at least 1, and that of the focus, "
                f"0 for none, got {body!r}"
            )
        return partial(self._adopt, (numbers[0], numbers[1]))

    def _adopt(self, intervals: tuple[int, int], turn: QueuedCommand) -> None:
        every, focus_every = intervals
        self._sampler.adopt(every, turn.step, focus_every)
        turn.done(turn.step)


def _differ(wanted: int, there_is: int) -> bool:
    return max(wanted, there_is) >= _WORTH * min(wanted, there_is) and wanted != there_is


def _as_it_was(reason: str) -> None:
    """Keep the rhythm; what is wanted is proposed again."""
