"""`RunState`: the newest state of runs as the stream has told it, for those who ask instead of listen."""

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
    RunInfo,
    Runs,
    Step,
    Times,
    unpack_layers,
)
from gradscope.protocol.bodies import unpack_block, unpack_memory, unpack_times

__all__ = ["RunState"]

_REVISIONS = 4

Value = TypeVar("Value")
Reading = TypeVar("Reading", Memory, Times)

Gathered: TypeAlias = dict[int, Step]
"""One step of a run: what each rank told of it."""


class RunState:
    """What is known of the runs, and of the one that is watched. Written by the link's thread alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._is_closed = False
        self.runs: tuple[RunInfo, ...] = ()
        self.runs_count = 0
        self.hub_counters: dict[str, int] = {}
        self.unreadable = 0
        self.run = ""
        self.is_synchronised = False
        self._awaits_past = False
        self.interventions: dict[int, Interventions] = {}
        self._manifests: dict[int, OrderedDict[int, Manifest]] = {}
        self._names: dict[tuple[int, int], tuple[str, ...]] = {}
        self._steps: dict[int, Step] = {}
        self._gathering: RankAssembly[Step] = RankAssembly()
        self._whole: Gathered | None = None
        self._memory: dict[int, Memory] = {}
        self._times: dict[int, Times] = {}

    def watch(self, run: str, *, awaits_past: bool) -> None:
        """Forget what belongs to another subscription.

        With `awaits_past`, steps that are still on their way from an earlier one are passed over: the
        new one's begin with the past, and would otherwise look older than what has come.
        """
        with self._changed:
            self.run = run
            self.is_synchronised = False
            self._awaits_past = awaits_past
            for of_run in (self.interventions, self._manifests, self._names, self._steps):
                of_run.clear()
            self._gathering.clear()
            self._whole = None
            self._memory.clear()
            self._times.clear()

    def forget_runs(self) -> None:
        """Forget the list of runs: another hub does not know them yet."""
        with self._changed:
            self.runs = ()

    def note(self, message: Message) -> bool:
        """Take in a message; return False for what belongs to the past and is not to be shown."""
        with self._changed:
            is_new = self._note(message)
            self._changed.notify_all()
        return is_new

    def wait(self, look: Callable[[], Value | None], timeout_s: float) -> Value | None:
        """Return what `look` finds, as soon as it finds something within `timeout_s`; else None."""
        deadline_s = time.monotonic() + timeout_s
        with self._changed:
            while True:
                found = look()
                left_s = deadline_s - time.monotonic()
                if found is not None or self._is_closed or left_s <= 0:
                    return found
                self._changed.wait(left_s)

    def close(self) -> None:
        """Let go whoever waits."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def manifest(self, rank: int) -> Manifest | None:
        """Return the newest manifest of a rank."""
        manifests = self._manifests.get(rank)
        return next(reversed(manifests.values())) if manifests else None

    def table(self, gathered: Gathered, *, is_of_all: bool = True) -> Table | None:
        """Return a step of one or several ranks as a table: their rows are merged.

        `is_of_all`: it should be of all ranks, and those that are not in it are named in `missing`.
        None, and counted, where one does not fit a manifest known here.
        """
        steps = list(gathered.values())
        parts = [(names, step) for step in steps if (names := self._names_of(step)) is not None]
        try:
            if len(parts) == len(steps):
                table = self._merged(steps, [(names, unpack_block(step)) for names, step in parts])
                if is_of_all:
                    table.missing = tuple(r for r in self._expected() if r not in table.ranks)
                return table
        except (ProtocolError, NotMeasuredError, UsageError, IndexError):
            pass  # an agent's mistake, or another version's columns: the step is of no use here
        self.unreadable += 1
        return None

    def ranks(self) -> tuple[int, ...]:
        """Return the ranks of the watched run whose steps may come; the first where none is known."""
        live = sorted(info.rank for info in self.runs if info.run == self.run and info.is_live)
        return tuple(live) or (0,)

    def newest_whole(self) -> Gathered | None:
        """Return the newest step that all ranks have told of."""
        return self._whole

    def newest_part(self) -> Gathered | None:
        """Return what there is of the newest step that any rank has told of."""
        newest = max(self._steps.values(), key=lambda step: step.step, default=None)
        if newest is None:
            return None
        return {r: step for r, step in sorted(self._steps.items()) if step.step == newest.step}

    def _merged(self, steps: list[Step], parts: list[tuple[tuple[str, ...], Block]]) -> Table:
        first, (names, block) = steps[0], parts[0]
        ranks = tuple(step.rank for step in steps)
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

    def _expected(self) -> range:
        sizes = [info.world_size for info in self.runs if info.run == self.run]
        return range(max(sizes, default=1))

    def _names_of(self, step: Step) -> tuple[str, ...] | None:
        manifests = self._manifests.get(step.rank)
        manifest = manifests.get(step.manifest_revision) if manifests else None
        try:
            return None if manifest is None else self._layer_names(manifest)
        except ProtocolError:
            return None

    def memory(self, rank: int) -> MemoryTable | None:
        """Return the newest reading of a rank's memory; None where there is none that fits."""
        return self._read(self._memory.get(rank), unpack_memory)

    def times(self, rank: int) -> TimesTable | None:
        """Return the newest reading of a rank's times; None where there is none that fits."""
        return self._read(self._times.get(rank), unpack_times)

    def _read(
        self,
        message: Reading | None,
        unpack: Callable[[Reading, tuple[str, ...]], Value],
    ) -> Value | None:
        if message is None:
            return None
        manifests = self._manifests.get(message.rank)
        manifest = manifests.get(message.manifest_revision) if manifests else None
        try:
            if manifest is not None:
                return unpack(message, self._layer_names(manifest))
        except (ProtocolError, UsageError):
            pass  # an agent's mistake, or another version's columns: of no use here
        self.unreadable += 1
        return None

    def _layer_names(self, manifest: Manifest) -> tuple[str, ...]:
        key = (manifest.rank, manifest.revision)
        if key not in self._names:
            self._names[key] = tuple(layer.name for layer in unpack_layers(manifest))
        return self._names[key]

    def newest_step(self, rank: int) -> Gathered | None:
        """Return the newest step of a rank."""
        step = self._steps.get(rank)
        return None if step is None else {rank: step}

    def _note(self, message: Message) -> bool:
        match message:
            case Runs():
                self.runs = message.runs
                self.hub_counters = message.counters
                self.runs_count += 1
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
            case Memory(run=self.run):
                self._memory[message.rank] = message
            case Times(run=self.run):
                self._times[message.rank] = message
            case Backfill(run=self.run, state="begin"):
                self._awaits_past = False
            case Backfill(run=self.run, state="end"):
                self.is_synchronised = not self._awaits_past
                return self.is_synchronised
            case Step(run=self.run, layers="all"):
                return not self._awaits_past and self._note_step(message)
            case _:
                pass
        return True

    def _note_step(self, step: Step) -> bool:
        last = self._steps.get(step.rank)
        if last is not None and step.seq <= last.seq and step.time_s <= last.time_s:
            return False
        self._steps[step.rank] = step
        for gathered in self._gathering.add(step, self.ranks()):
            if set(self.ranks()).issubset(gathered):
                self._whole = gathered
        return True
