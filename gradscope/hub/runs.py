"""The runs that the hub knows: for each rank its hello, newest state and history."""

import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from gradscope.errors import UsageError
from gradscope.hub.history import Parts, RankHistory
from gradscope.protocol import (
    Bye,
    Event,
    Hello,
    Interventions,
    Manifest,
    Memory,
    Refusal,
    RunInfo,
    Runs,
    Scalars,
    Step,
    Times,
    encode,
)

__all__ = ["Rank", "RunTable", "Streamed", "is_running"]

Streamed: TypeAlias = Manifest | Step | Memory | Times | Scalars | Event | Interventions
"""Messages that are kept, recorded and forwarded to viewers."""

_KEPT_HISTORIES = 8
_LISTED = 500
_TEXT_LIMIT = 300
_COUNTERS_LIMIT = 32
_HISTORIES_LIMIT_BYTES = 2**30


@dataclass(slots=True)
class Rank:
    """One rank of one run. `route` is None after its agent has left, and `bye` then says how it ended.

    `last_message_s` is a Unix time; `ended_s` is one of time.monotonic(), which no change of the clock affects.
    """

    hello: Hello
    route: bytes | None
    history: RankHistory = field(default_factory=RankHistory)
    manifest: Parts | None = None
    interventions: Parts | None = None
    step: int | None = None
    last_message_s: float = field(default_factory=time.time)
    recording: str = ""
    counters: dict[str, int] = field(default_factory=dict)
    bye: Bye = field(default_factory=Bye)
    ended_s: float = 0.0
    received_steps: int = 0
    lost_steps: int = 0
    next_seq: int | None = None

    def keep(self, message: Streamed, parts: Parts) -> None:
        """Store a message for viewers that connect later."""
        match message:
            case Manifest():
                self.manifest = parts
            case Interventions():
                self.interventions = parts
            case Event():
                self.history.add_event(parts)
            case Memory() | Times():
                self.history.add_reading(parts)
            case Step():
                self.history.add_step(parts)
                self.note_step(message.step)
                self._count_step(message.seq)
            case Scalars():
                self.history.add_scalars(message, len(parts[0]))
                self.note_step(message.steps[-1] if message.steps else None)

    def _count_step(self, seq: int) -> None:
        """Count a step, and those before it that this hub has not received, by the gap in the sequence."""
        self.received_steps += 1
        if self.next_seq is not None:
            self.lost_steps += max(0, seq - self.next_seq)
        self.next_seq = seq + 1

    def note_step(self, step: int | None) -> None:
        """Store the newest step number of the agent."""
        if step is not None:
            self.step = step if self.step is None else max(step, self.step)

    def note_counters(self, counters: dict[str, int]) -> None:
        """Store the agent's counters, at most 32 of them."""
        for name, value in counters.items():
            if name in self.counters or len(self.counters) < _COUNTERS_LIMIT:
                self.counters[name[:_TEXT_LIMIT]] = value


class RunTable:
    """All ranks by run. Ended ranks stay in the list; the histories of the last 8 ended ranks are kept."""

    def __init__(self) -> None:
        self._ranks: dict[tuple[str, int], Rank] = {}
        self.has_changed = False

    def rank(self, run: str, rank: int) -> Rank | None:
        """Return a live or ended rank, or None."""
        return self._ranks.get((run, rank))

    def ranks(self, run: str) -> Iterator[tuple[int, Rank]]:
        """Iterate over a run's ranks, in order."""
        mine = sorted(number for name, number in self._ranks if name == run)
        return ((number, self._ranks[run, number]) for number in mine)

    @property
    def has_live(self) -> bool:
        """Whether any agent is connected."""
        return any(rank.route is not None for rank in self._ranks.values())

    def is_live(self, run: str) -> bool:
        """Return whether an agent of the run is connected."""
        return any(rank.route is not None for _, rank in self.ranks(run))

    def refusal_of(self, hello: Hello) -> Refusal | None:
        """Return a refusal if the agent names no run, or if a living process has the same run and rank."""
        if not hello.run:
            return Refusal(code="run", reason="an agent's hello must name its run")
        known = self.rank(hello.run, hello.rank)
        if known is None or known.route is None or known.hello.peer == hello.peer:
            return None
        if not is_running(known.hello):
            return None
        return Refusal(
            code="run",
            reason=f"rank {hello.rank} of a run named {hello.run!r} is already live in process "
            f"{known.hello.pid} on {known.hello.host}; choose another name",
        )

    def add(self, hello: Hello, route: bytes) -> Rank:
        """Add a connected agent. If another process had the same run and rank, its history is removed."""
        known = self.rank(hello.run, hello.rank)
        if known is not None and known.hello.peer == hello.peer:
            known.route, known.hello, known.last_message_s = route, hello, time.time()
        else:
            known = self._ranks[hello.run, hello.rank] = Rank(hello, route)
        self.has_changed = True
        return known

    def mark_ended(self, hello: Hello, route: bytes, bye: Bye, *, has_said_bye: bool) -> None:
        """Mark an agent's rank as ended, unless the agent has a newer connection."""
        rank = self.rank(hello.run, hello.rank)
        if rank is None or rank.route != route:
            return
        if has_said_bye:
            rank.last_message_s = time.time()
        rank.route, rank.bye = None, Bye(reason=bye.reason[:_TEXT_LIMIT], has_failed=bye.has_failed)
        rank.ended_s = time.monotonic()
        self.has_changed = True
        ended = [key for key, other in self._ranks.items() if other.route is None]
        ended.sort(key=lambda key: self._ranks[key].ended_s)
        for key in ended[:-_KEPT_HISTORIES]:
            other = self._ranks[key]
            other.history, other.manifest, other.interventions = RankHistory(), None, None
        for key in ended[:-_LISTED]:
            del self._ranks[key]

    def bound_memory(self) -> None:
        """Drop the older half of the steps of the largest histories, until all histories take at most 1 GB."""
        histories = [rank.history for rank in self._ranks.values()]
        total_bytes = sum(history.size_bytes for history in histories)
        while total_bytes > _HISTORIES_LIMIT_BYTES:
            largest = max(histories, key=lambda history: history.steps.size_bytes)
            if not len(largest.steps):
                return
            total_bytes -= largest.steps.size_bytes
            largest.drop_half_of_steps()
            total_bytes += largest.steps.size_bytes

    def end_reason(self, run: str) -> str:
        """Return why a run ended: the reason of the first rank that failed, or of the first rank."""
        ranks = list(self.ranks(run))
        failed = [(number, rank) for number, rank in ranks if rank.bye.has_failed]
        number, rank = min(failed, key=lambda item: item[1].ended_s, default=ranks[0])
        return rank.bye.reason if len(ranks) == 1 else f"rank {number}: {rank.bye.reason}"

    def listing(self, counters: dict[str, int]) -> Parts:
        """Return an encoded `Runs` with as many runs as fit: live runs first, then the newest."""
        order = sorted(
            self._ranks.values(), key=lambda rank: (rank.route is None, -rank.hello.started_s)
        )
        infos = tuple(_run_info(rank) for rank in order[:_LISTED])
        while True:
            try:
                return encode(Runs(runs=infos, counters=counters))
            except UsageError:
                infos = infos[: len(infos) // 2]


def _run_info(rank: Rank) -> RunInfo:
    hello = rank.hello
    return RunInfo(
        run=hello.run,
        rank=hello.rank,
        world_size=hello.world_size,
        host=hello.host[:_TEXT_LIMIT],
        pid=hello.pid,
        user=hello.user[:_TEXT_LIMIT],
        script=hello.script[:_TEXT_LIMIT],
        started_s=hello.started_s,
        is_live=rank.route is not None,
        step=rank.step,
        last_message_s=rank.last_message_s,
        recording=rank.recording,
        counters={
            **rank.counters,
            "steps_received": rank.received_steps,
            "steps_lost": rank.lost_steps,
        },
        reason="" if rank.route else rank.bye.reason[:_TEXT_LIMIT],
        has_failed=rank.route is None and rank.bye.has_failed,
    )


def is_running(hello: Hello) -> bool:
    """Return False only if the process was on this host and has ended."""
    if hello.host != socket.gethostname() or hello.pid <= 0:
        return True
    try:
        os.kill(hello.pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    try:
        status = Path(f"/proc/{hello.pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        return True
    return (
        not status.rpartition(")")[2].lstrip().startswith("Z")
    )  # ended, and its parent has not noticed
