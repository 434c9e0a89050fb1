"""`RunState`: the newest state of the runs. It is the only place in a client that merges ranks that the hub has not."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from gradscope.columns import Block, MemoryTable, RankAssembly, Table, TimesTable, merge_ranks
from gradscope.errors import NotMeasuredError, ProtocolError, UsageError
from gradscope.protocol import (
    Backfill,
    Interventions,
    Manifest,
    Memory,
    Message,
    RankStates,
    RunInfo,
    Runs,
    Step,
    Times,
    unpack_layers,
)
from gradscope.protocol.bodies import unpack_block, unpack_memory, unpack_times

__all__ = ["RankSteps", "RunState"]

_REVISIONS = 4

Value = TypeVar("Value")
Reading = TypeVar("Reading", Memory, Times)

RankSteps: TypeAlias = dict[int, Step]
"""One step of a run: the message of each rank, by rank in ascending order; only one if the hub has merged the ranks."""


class RunState:
    """The runs that the hub knows, and the newest messages of the watched run.

    The link's thread writes; any thread reads. `unreadable` counts messages that match no known
    manifest. `has_all_but_steps`: the state and the past of the run have arrived, except for past steps, which
    the hub sends last and only as fast as the reader takes them. `is_synchronised`: so have those.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_closed = False
        self.runs: tuple[RunInfo, ...] = ()
        self.runs_count = 0
        self.hub_counters: dict[str, int] = {}
        self.unreadable = 0
        self.run = ""
        self.has_all_but_steps = False
        self.is_synchronised = False
        self._awaited: int | None = None
        self._is_merged = False
        self.interventions: dict[int, Interventions] = {}
        self.rank_states: dict[str, RankStates] = {}
        self._manifests: dict[int, OrderedDict[int, Manifest]] = {}
        self._names: dict[tuple[int, int], tuple[str, ...]] = {}
        self._steps: dict[int, Step] = {}
        self._assembly: RankAssembly[Step] = RankAssembly()
        self._whole: RankSteps | None = None
        self._memory: dict[int, Memory] = {}
        self._times: dict[int, Times] = {}

    def watch(self, run: str, number: int | None = None, *, is_merged: bool = False) -> None:
        """Forget the messages of an earlier subscription.

        number: the number of the new subscription. Until its backfill begins, all messages about the run
            except manifests and interventions are ignored: they belong to an earlier subscription to the
            same run, and their manifests are forgotten.
        is_merged: the hub merges all ranks, so each step is one of all ranks.
        """
        with self._changed:
            self.run = run
            self.has_all_but_steps = self.is_synchronised = False
            self._awaited = number
            self._is_merged = is_merged
            for of_run in (self.interventions, self._manifests, self._names, self._steps):
                of_run.clear()
            self._assembly.clear()
            self._whole = None
            self._memory.clear()
            self._times.clear()

    def forget_runs(self) -> None:
        """Forget the list of runs, because a new hub does not know them yet."""
        with self._changed:
            self.runs = ()

    def store_message(self, message: Message) -> list[Message | RankSteps]:
        """Store a message, and return the items that the reader of the stream receives for it.

        The result is empty for a message that was received before. For a step, it is the message,
        followed by each step of the run that all ranks have now reported.
        """
        with self._changed:
            items = self._store(message)
            self._changed.notify_all()
        return items

    def wait(self, find: Callable[[], Value | None], timeout_s: float) -> Value | None:
        """Wait until `find` returns a value other than None and return it. Return None after `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while True:
                found = find()
                left_s = deadline_s - time.monotonic()
                if found is not None or self._is_closed or left_s <= 0:
                    return found
                self._changed.wait(left_s)

    def close(self) -> None:
        """End all waiting, because the client is closing."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def manifest(self, rank: int) -> Manifest | None:
        """Return the newest manifest of a rank."""
        manifests = self._manifests.get(rank)
        return next(reversed(manifests.values())) if manifests else None

    def table(self, rank_steps: RankSteps, *, is_of_all: bool = True) -> Table | None:
        """Return a step of one or several ranks as a table with merged rows.

        `is_of_all`: the table should cover all ranks; `missing` names those without a message. Returns
        None, and counts the message, if it matches no known manifest.
        """
        steps = list(rank_steps.values())
        parts = [(names, step) for step in steps if (names := self._names_of(step)) is not None]
        try:
            if len(parts) == len(steps):
                table = self._merge_to_table(
                    steps, [(names, unpack_block(step)) for names, step in parts]
                )
                if is_of_all:
                    table.missing = tuple(r for r in self._all_ranks() if r not in table.ranks)
                return table
        except (ProtocolError, NotMeasuredError, UsageError, IndexError):
            pass  # a faulty agent, or columns of another version
        self.unreadable += 1
        return None

    def ranks(self) -> tuple[int, ...]:
        """Return the live ranks of the watched run; rank 0 if none is known."""
        live = sorted(info.rank for info in self.runs if info.run == self.run and info.is_live)
        return tuple(live) or (0,)

    def world_size(self, run: str) -> int:
        """Return the number of ranks of a run; 1 if it is not known."""
        return max((info.world_size for info in self.runs if info.run == run), default=1)

    def lowest_rank(self, run: str) -> int:
        """Return the lowest rank of a run that the hub knows; 0 if none is known."""
        return min((info.rank for info in self.runs if info.run == run), default=0)

    def newest_whole(self) -> RankSteps | None:
        """Return the newest step that all ranks have reported, or None."""
        return self._whole

    def newest_part(self) -> RankSteps | None:
        """Return the newest step that any rank has reported, with the messages received so far, or None."""
        newest = max(self._steps.values(), key=lambda step: step.step, default=None)
        if newest is None:
            return None
        return {r: step for r, step in sorted(self._steps.items()) if step.step == newest.step}

    def _merge_to_table(self, steps: list[Step], parts: list[tuple[tuple[str, ...], Block]]) -> Table:
        first, (names, block) = steps[0], parts[0]
        ranks = tuple(rank for step in steps for rank in step.ranks or (step.rank,))
        if len(parts) > 1:
            names, block = merge_ranks(parts)
        return Table(
            first.step,
            names,
            block,
            every=first.every,
            cost=first.cost,
            ranks=ranks,
        )

    def _all_ranks(self) -> range:
        return range(self.world_size(self.run))

    def _names_of(self, message: Step | Memory | Times) -> tuple[str, ...] | None:
        manifests = self._manifests.get(message.rank)
        manifest = manifests.get(message.manifest_revision) if manifests else None
        if manifest is None:
            return None
        key = (manifest.rank, manifest.revision)
        try:
            if key not in self._names:
                self._names[key] = tuple(layer.name for layer in unpack_layers(manifest))
            return self._names[key]
        except ProtocolError:
            return None

    def memory(self, rank: int) -> MemoryTable | None:
        """Return the newest memory table of a rank; None if there is none, or it matches no manifest."""
        return self._unpack_newest(self._memory.get(rank), unpack_memory)

    def times(self, rank: int) -> TimesTable | None:
        """Return the newest table of times of a rank; None if there is none, or it matches no manifest."""
        return self._unpack_newest(self._times.get(rank), unpack_times)

    def _unpack_newest(
        self,
        message: Reading | None,
        unpack: Callable[[Reading, tuple[str, ...]], Value],
    ) -> Value | None:
        if message is None:
            return None
        names = self._names_of(message)
        try:
            if names is not None:
                return unpack(message, names)
        except (ProtocolError, UsageError):
            pass  # a faulty agent, or columns of another version
        self.unreadable += 1
        return None

    def newest_step(self, rank: int) -> RankSteps | None:
        """Return the newest step of a rank, or None."""
        step = self._steps.get(rank)
        return None if step is None else {rank: step}

    def _store(self, message: Message) -> list[Message | RankSteps]:
        match message:
            case Runs():
                self._note_restarts(message.runs)
                self.runs = message.runs
                self.hub_counters = message.counters
                self.runs_count += 1
            case RankStates():
                self.rank_states[message.run] = message
            case Manifest(run=self.run):
                manifests = self._manifests.setdefault(message.rank, OrderedDict())
                manifests.pop(message.revision, None)
                manifests[message.revision] = message
                if len(manifests) > _REVISIONS:
                    oldest, _ = manifests.popitem(last=False)
                    self._names.pop((message.rank, oldest), None)
                self._names.pop((message.rank, message.revision), None)
            case Interventions(run=self.run):
                self.interventions[message.rank] = message
            case Backfill(run=self.run, state="begin", number=self._awaited):
                self._awaited = None
            case _ if self._awaited is not None and getattr(message, "run", None) == self.run:
                return []
            case Backfill(run=self.run, state="end"):
                self.has_all_but_steps = self.is_synchronised = True
            case Memory(run=self.run):
                self._memory[message.rank] = message
            case Times(run=self.run):
                self._times[message.rank] = message
            case Step(run=self.run, layers="all"):
                self.has_all_but_steps = True
                return self._store_step(message)
            case _:
                pass
        return [message]

    def _note_restarts(self, runs: tuple[RunInfo, ...]) -> None:
        """Forget the steps of a rank whose process is another one now. The hub lists it before its first step arrives.

        Its steps count from 0 again, and are not taken for repeated ones even if the clock was set back meanwhile.
        """
        before = {info.rank: (info.started_s, info.pid) for info in self.runs if info.run == self.run}
        for info in runs:
            is_other = before.get(info.rank, (info.started_s, info.pid)) != (info.started_s, info.pid)
            if info.run == self.run and is_other:
                self._steps.pop(info.rank, None)

    def _store_step(self, step: Step) -> list[Message | RankSteps]:
        last = self._steps.get(step.rank)
        if last is not None and step.seq <= last.seq and step.time_s <= last.time_s:
            return []
        self._steps[step.rank] = step
        if step.ranks and self._is_merged:
            self._whole = {step.rank: step}
            return [step, self._whole]
        assembled = self._assembly.add(step, self.ranks())
        for rank_steps in assembled:
            if set(self.ranks()).issubset(rank_steps):
                self._whole = rank_steps
        return [step, *assembled]
