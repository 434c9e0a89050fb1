"""Aligns the live steps of the ranks of a run, so that a viewer receives the same steps from each rank.

A viewer that receives only some of the steps needs the same steps from each rank in order to merge
them.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from gradscope.hub.history import Parts

__all__ = ["Chosen", "RankAlignment"]

_KEPT = 16
_GRACE_S = 0.25
"""How long a step waits for the same step of a rank that was recently active, in seconds."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A step of one rank to send. Before it, `skipped` steps were not sent; `last` is the newest of these."""

    rank: int
    parts: Parts
    skipped: int
    last: int


@dataclass(slots=True)
class _Rank:
    """One rank: its waiting steps in order of arrival, and the steps left out since the last sent one."""

    waiting: dict[int, Parts] = field(default_factory=dict)
    is_awaited: bool = True
    skipped: int = 0
    last: int = 0


class RankAlignment:
    """Chooses the next step to send: the newest step that all ranks have reported.

    Steps that are left out are counted in `counts["skipped_steps"]`.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._ranks: dict[int, _Rank] = {}
        self._incomplete_since_s: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no step is waiting."""
        return not any(each.waiting for each in self._ranks.values())

    def put(self, rank: int, step: int, parts: Parts) -> None:
        """Add a step. If 16 steps of a rank are waiting, the oldest is left out."""
        of_rank = self._ranks.setdefault(rank, _Rank())
        of_rank.is_awaited = True
        if of_rank.waiting.pop(step, None) is not None:
            self._counts["skipped_steps"] += 1  # the agent has sent this step twice
        of_rank.waiting[step] = parts
        self._leave_out(of_rank, list(of_rank.waiting)[:-_KEPT])

    def clear(self) -> int:
        """Forget all ranks and steps. Return the number of steps that were waiting."""
        count = sum(len(each.waiting) for each in self._ranks.values())
        self._ranks.clear()
        self._incomplete_since_s = None
        return count

    def choose(self, now_s: float) -> tuple[list[Chosen], float]:
        """Remove and return the steps to send now. If there are none, also return when to call again."""
        awaited = [each for each in self._ranks.values() if each.is_awaited]
        if self.is_empty or not awaited:
            return [], math.inf
        common = set.intersection(*(set(each.waiting) for each in awaited))
        if not common:
            since_s = now_s if self._incomplete_since_s is None else self._incomplete_since_s
            if now_s < since_s + _GRACE_S:
                self._incomplete_since_s = since_s
                return [], since_s + _GRACE_S
            for each in awaited:
                each.is_awaited = bool(each.waiting)
        self._incomplete_since_s = None
        return list(self._pop_steps(max(common) if common else None)), now_s

    def _pop_steps(self, step: int | None) -> Iterator[Chosen]:
        """Remove and yield this step of all ranks that have it; for None, the newest step of each rank."""
        for rank, each in sorted(self._ranks.items()):
            order = list(each.waiting)
            if not order or (step is not None and step not in order):
                continue
            wanted = order[-1] if step is None else step
            self._leave_out(each, order[: order.index(wanted)])
            yield Chosen(rank, each.waiting.pop(wanted), each.skipped, each.last)
            each.skipped = 0

    def _leave_out(self, of_rank: _Rank, steps: list[int]) -> None:
        for step in steps:
            del of_rank.waiting[step]
            of_rank.skipped += 1
            of_rank.last = step
        self._counts["skipped_steps"] += len(steps)
