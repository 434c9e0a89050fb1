"""`Known`: the newest state of runs as the stream has told it, for those who ask instead of listen."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

from gradscope.columns import Table
from gradscope.errors import NotMeasuredError, ProtocolError
from gradscope.protocol import (
    Backfill,
    Interventions,
    Manifest,
    Message,
    RunInfo,
    Runs,
    Step,
)

__all__ = ["Known"]

_REVISIONS = 4

Value = TypeVar("Value")


class Known:
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

    def table(self, step: Step) -> Table | None:
        """Return a step as a table; None, and counted, where it does not fit a manifest known here."""
        manifests = self._manifests.get(step.rank)
        manifest = manifests.get(step.manifest_revision) if manifests else None
        try:
            if manifest is not None:
                return Table(step.step, self._layer_names(manifest), step.block())
        except (ProtocolError, NotMeasuredError, IndexError):
            pass  # an agent's mistake, or another version's columns: the step is of no use here
        self.unreadable += 1
        return None

    def _layer_names(self, manifest: Manifest) -> tuple[str, ...]:
        key = (manifest.rank, manifest.revision)
        if key not in self._names:
            self._names[key] = tuple(layer.name for layer in manifest.layers())
        return self._names[key]

    def newest_step(self, rank: int) -> Step | None:
        """Return the newest step of a rank."""
        return self._steps.get(rank)

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
            case Backfill(run=self.run, state="begin"):
                self._awaits_past = False
            case Backfill(run=self.run, state="end"):
                self.is_synchronised = not self._awaits_past
                return self.is_synchronised
            case Step(run=self.run):
                return not self._awaits_past and self._note_step(message)
            case _:
                pass
        return True

    def _note_step(self, step: Step) -> bool:
        last = self._steps.get(step.rank)
        if last is not None and step.seq <= last.seq and step.time_s <= last.time_s:
            return False
        self._steps[step.rank] = step
        return True
