"""All ranks observe the same steps: the first of them chooses, and all change their rhythm together."""

import time
from functools import partial

from gradscope.agent.agreement import Agreement
from gradscope.agent.step_parts import StepPart
from gradscope.agent.turns import Change, Prepared, Turn, nothing_to_tell
from gradscope.errors import UsageError
from gradscope.observe import Sampler

__all__ = ["SharedRhythm"]

_KIND = "every"
_OFTEN_S = 1.0
_WORTH = 1.2
"""What is chosen must differ by this factor from what there is, to be worth asking all ranks."""


class SharedRhythm(StepPart):
    """Keeps a sampler in step with those of the other ranks."""

    name = "the steps that all ranks observe"

    def __init__(self, agreement: Agreement, sampler: Sampler) -> None:
        self._agreement = agreement
        self._sampler = sampler
        self._asked_s = -_OFTEN_S
        agreement.obey(_KIND, self._prepare)

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:  # noqa: ARG002 - a part's shape
        """On the first rank: propose another rhythm, where one is wanted."""
        wanted, every = self._sampler.wanted, self._sampler.every
        if wanted == every or self._agreement.rank != 0:
            return
        now_s = time.monotonic()
        is_worth_it = max(wanted, every) >= _WORTH * min(wanted, every)
        if is_worth_it and now_s - self._asked_s >= _OFTEN_S:
            self._asked_s = now_s
            change = Change(partial(self._adopt, wanted), nothing_to_tell, _as_it_was)
            self._agreement.submit(_KIND, str(wanted), change)

    def _prepare(self, body: str) -> Prepared:
        every = int(body) if body.isdigit() else 0
        if every < 1:
            raise UsageError(f"expected a number of steps of at least 1, got {body!r}")
        return partial(self._adopt, every)

    def _adopt(self, every: int, turn: Turn) -> None:
        self._sampler.adopt(every, turn.step)
        turn.done(turn.step)


def _as_it_was(reason: str) -> None:
    """Keep the rhythm; what is wanted is proposed again."""
