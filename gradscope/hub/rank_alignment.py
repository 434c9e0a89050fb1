"""The live steps of a run's ranks on their way to one viewer: all ranks' of the same step, or none yet.

A viewer that takes fewer steps than there are must get the same ones of each rank, to merge them.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from gradscope.hub.history import Parts

__all__ = ["Chosen", "RankAlignment"]

_KEPT = 16
_GRACE_S = 0.25
"""How long a step waits for that of a rank which was there lately."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A rank's step that is to be sent. `skipped` others were left out before it, the last `last`."""

    rank: int
    parts: Parts
    skipped: int
    last: int


@dataclass(slots=True)
class _Rank:
    """What waits of one rank, by step in the order of its coming; what was left out since the last."""

    waiting: dict[int, Parts] = field(default_factory=dict)
    is_awaited: bool = True
    skipped: int = 0
    last: int = 0


class RankAlignment:
    """Chooses what to send next: the newest step that all ranks have told of.

    What is left out is counted in `counts["skipped_steps"]`.
    """

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts
        self._ranks: dict[int, _Rank] = {}
        self._uneven_since_s: float | None = None

    @property
    def is_empty(self) -> bool:
        """Whether no step waits."""
        return not any(each.waiting for each in self._ranks.values())

    def put(self, rank: int, step: int, parts: Parts) -> None:
        """Let a step wait; the oldest goes where 16 of a rank do."""
        of_rank = self._ranks.setdefault(rank, _Rank())
        of_rank.is_awaited = True
        of_rank.waiting.pop(step, None)
        of_rank.waiting[step] = parts
        self._leave_out(of_rank, list(of_rank.waiting)[:-_KEPT])

    def clear(self) -> None:
        """Forget everything."""
        self._ranks.clear()
        self._uneven_since_s = None

    def choose(self, now_s: float) -> tuple[list[Chosen], float]:
        """Take out of the waiting what is to be sent now; where nothing is, say when to ask again."""
        awaited = [each for each in self._ranks.values() if each.is_awaited]
        if self.is_empty or not awaited:
            return [], math.inf
        common = set.intersection(*(set(each.waiting) for each in awaited))
        if not common:
            since_s = now_s if self._uneven_since_s is None else self._uneven_since_s
            if now_s < since_s + _GRACE_S:
                self._uneven_since_s = since_s
                return [], since_s + _GRACE_S
            for each in awaited:
                each.is_awaited = bool(each.waiting)
        self._uneven_since_s = None
        return list(self._take(max(common) if common else None)), now_s

    def _take(self, step: int | None) -> Iterator[Chosen]:
        """Take a step of all ranks that have it; with None, the newest of each."""
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
