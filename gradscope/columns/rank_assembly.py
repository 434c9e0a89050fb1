"""`RankAssembly`: collects the messages of all ranks of a run, step by step."""

from collections import OrderedDict
from collections.abc import Collection
from typing import Generic, Protocol, TypeVar

__all__ = ["RankAssembly", "RankStep"]

_LIMIT = 2_000


class RankStep(Protocol):
    """A message from one rank about one step."""

    @property
    def rank(self) -> int:
        """The rank that sent the message."""

    @property
    def step(self) -> int:
        """The step that the message is about."""


Message = TypeVar("Message", bound=RankStep)


class RankAssembly(Generic[Message]):
    """Collects one message from each rank for each step, and does not wait for a rank that has sent a later step.

    A finished step maps each rank to its message, in the order of the ranks.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[int, dict[int, Message]] = OrderedDict()
        self._newest: dict[int, int] = {}

    def add(self, message: Message, ranks: Collection[int]) -> list[dict[int, Message]]:
        """Add a message; return the steps that are now complete, oldest first.

        ranks: the ranks to wait for.
        """
        if message.step < self._newest.get(message.rank, -1):
            self.clear()  # each rank sends its steps in order: a lower step means that the run has restarted
        self._newest[message.rank] = message.step
        self._open.setdefault(message.step, {})[message.rank] = message
        return self.finished(ranks)

    def finished(self, ranks: Collection[int]) -> list[dict[int, Message]]:
        """Return the steps that are complete if only `ranks` are waited for, oldest first."""
        finished = [step for step, of_step in self._open.items() if self._is_over(step, of_step, ranks)]
        over = len(self._open) - len(finished) - _LIMIT
        if over > 0:
            finished += [step for step in self._open if step not in finished][:over]
        return [dict(sorted(self._open.pop(step).items())) for step in sorted(finished)]

    @property
    def is_waiting(self) -> bool:
        """Whether a step waits for a rank."""
        return bool(self._open)

    def late(self, ranks: Collection[int]) -> list[int]:
        """Return those of `ranks` that have not sent the newest step."""
        newest = max(self._open, default=-1)
        return [rank for rank in ranks if self._newest.get(rank, -1) < newest]

    def clear(self) -> None:
        """Discard all steps."""
        self._open.clear()
        self._newest.clear()

    def _is_over(self, step: int, of_step: dict[int, Message], ranks: Collection[int]) -> bool:
        return all(rank in of_step or self._newest.get(rank, -1) > step for rank in ranks)
