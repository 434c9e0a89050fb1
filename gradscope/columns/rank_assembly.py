"""`RankAssembly`: the steps of all ranks of a run, put together as they come."""

from collections import OrderedDict
from collections.abc import Collection
from typing import Generic, Protocol, TypeVar

__all__ = ["RankAssembly", "RankStep"]

_LIMIT = 2_000


class RankStep(Protocol):
    """What one rank reports about one step."""

    @property
    def rank(self) -> int:
        """The rank that reports it."""

    @property
    def step(self) -> int:
        """The step that is reported."""


Told = TypeVar("Told", bound=RankStep)


class RankAssembly(Generic[Told]):
    """Collects a step of each rank. One that has gone on without telling of it is not awaited.

    What comes out is one step of the run: the reports of the ranks, in the order of the ranks.
    """

    def __init__(self) -> None:
        self._open: OrderedDict[int, dict[int, Told]] = OrderedDict()
        self._newest: dict[int, int] = {}

    def add(self, told: Told, ranks: Collection[int]) -> list[dict[int, Told]]:
        """Take what a rank tells; return the steps that are finished now, oldest first.

        ranks: those of which one is awaited.
        """
        if told.step < self._newest.get(told.rank, -1):
            self.clear()  # each rank reports its steps in order: this is another process of the run
        self._newest[told.rank] = told.step
        self._open.setdefault(told.step, {})[told.rank] = told
        finished = [step for step, of_step in self._open.items() if self._is_over(step, of_step, ranks)]
        over = len(self._open) - len(finished) - _LIMIT
        if over > 0:
            finished += [step for step in self._open if step not in finished][:over]
        return [dict(sorted(self._open.pop(step).items())) for step in sorted(finished)]

    def clear(self) -> None:
        """Forget all: another run, or the same after a restart."""
        self._open.clear()
        self._newest.clear()

    def _is_over(self, step: int, of_step: dict[int, Told], ranks: Collection[int]) -> bool:
        return all(rank in of_step or self._newest.get(rank, -1) > step for rank in ranks)
