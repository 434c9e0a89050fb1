"""Collects how each rank of a run is doing, from the messages that its agent sends anyway."""

import statistics
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from msgspec.structs import replace

from gradscope.hub.runs import Rank
from gradscope.protocol import Heartbeat, Message, RankState, RankStates, Scalars, Step, Times
from gradscope.protocol.standing_out import standing_out

if TYPE_CHECKING:
    from gradscope.rules import RankNumbers

__all__ = ["RunRanks"]

_STEPS = 20
_LISTED = 256
_TEXT_LIMIT = 200
_BEFORE_BACKWARD = ("data", "forward", "loss")


@dataclass(slots=True)
class _Rank:
    """What is known of one rank. `ended_s`: when its newest step ended, by this hub's time.monotonic()."""

    step: int | None = None
    ended_s: float | None = None
    steps_s: deque[float] = field(default_factory=lambda: deque(maxlen=_STEPS))
    before_backward_s: float | None = None
    place: str = ""
    layer: str = ""
    of_node: RankStates | None = None
    """What the hub of a node has forwarded about all its ranks, of which this is the lowest."""


class RunRanks:
    """The ranks of one run."""

    def __init__(self) -> None:
        self._ranks: dict[int, _Rank] = {}

    def join(self, rank: int) -> None:
        """Forget an earlier process of this rank."""
        self._ranks[rank] = _Rank()

    def note(self, rank: int, message: Message, now_s: float) -> None:
        """Add a message of a rank. Others than steps, scalars, times and heartbeats are ignored."""
        of_rank = self._ranks.setdefault(rank, _Rank())
        match message:
            case Step(layers="all"):
                _note_step(of_rank, message.step, now_s)
            case Scalars():
                durations = message.values.get("step_time_s", ())
                of_rank.steps_s.extend(each for each in durations if each is not None)
                if message.steps:
                    _note_step(of_rank, message.steps[-1], now_s)
            case Times(is_observed=False, phases_s=phases_s):
                _note_times(of_rank, phases_s)
            case Times(phases_s=phases_s) if of_rank.before_backward_s is None:
                _note_times(of_rank, phases_s)
            case Heartbeat():
                of_rank.place, of_rank.layer = message.place[:_TEXT_LIMIT], message.layer[:_TEXT_LIMIT]
                if message.still_s is not None and message.step is not None:
                    _note_step(of_rank, message.step, now_s - message.still_s)
            case RankStates():
                of_rank.of_node = message
            case _:
                pass

    def message(
        self,
        run: str,
        ranks: Mapping[int, Rank],
        numbers: "tuple[int, dict[int, RankNumbers]] | None",
        now_s: float,
    ) -> RankStates:
        """Return the message for viewers. numbers: the newest step in which the ranks were compared."""
        compared_step, of_ranks = numbers if numbers is not None else (None, {})
        states: list[RankState] = []
        count = 0
        for number, rank in sorted(ranks.items()):
            of_node = self._ranks[number].of_node if number in self._ranks else None
            is_live = rank.route is not None
            if of_node is None:
                states.append(self._state(number, is_live, of_ranks.get(number), now_s))
            else:
                states += [replace(each, is_live=each.is_live and is_live) for each in of_node.ranks]
                compared_step = of_node.compared_step
            count += 1 if of_node is None else of_node.count
        if len(states) > _LISTED:
            reasons = standing_out(states)
            first = sorted(states, key=lambda each: (each.rank not in reasons, each.rank))[:_LISTED]
            states = sorted(first, key=lambda each: each.rank)
        return RankStates(
            run=run,
            time_s=time.time(),
            count=count,
            ranks=tuple(states),
            compared_step=compared_step,
        )

    def _state(
        self, number: int, is_live: bool, numbers: "RankNumbers | None", now_s: float
    ) -> RankState:
        known = self._ranks.get(number, _Rank())
        return RankState(
            rank=number,
            is_live=is_live,
            step=known.step,
            step_s=statistics.median(known.steps_s) if known.steps_s else None,
            before_backward_s=known.before_backward_s,
            still_s=None if known.ended_s is None else max(0.0, now_s - known.ended_s),
            place=known.place if is_live else "",
            layer=known.layer if is_live else "",
            norms={} if numbers is None else numbers.norms,
            nonfinite=None if numbers is None else numbers.nonfinite,
            differs_at="" if numbers is None else numbers.differs_at[:_TEXT_LIMIT],
            differs_by=None if numbers is None else numbers.differs_by,
        )


def _note_step(rank: _Rank, step: int, ended_s: float) -> None:
    """Store that a step has ended. A step that is known keeps the earliest time."""
    if rank.step is None or step > rank.step:
        rank.step, rank.ended_s = step, ended_s


def _note_times(rank: _Rank, phases_s: dict[str, float]) -> None:
    known = [phases_s[name] for name in _BEFORE_BACKWARD if name in phases_s]
    if known:
        rank.before_backward_s = sum(known)
