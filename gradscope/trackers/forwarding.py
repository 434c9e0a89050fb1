"""`forward`: reads a run as a viewer does, and sends its numbers and findings to a tracker until the run ends."""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from gradscope.client import Client, connect
from gradscope.client.state import RankSteps, RunState
from gradscope.columns import Table
from gradscope.errors import NothingToConnectError
from gradscope.findings import Finding
from gradscope.names import match_names
from gradscope.protocol import Event, Manifest, Message, Scalars, Skipped, Step
from gradscope.recording import Recording, list_recordings, open_recording
from gradscope.trackers.series import layer_series, step_series
from gradscope.trackers.tracker import Destination, Tracker, open_tracker
from gradscope.transport import hub_address

__all__ = ["Destination", "Forwarded", "forward", "forward_recorded"]

_POLL_S = 0.25
_LAST_S = 1.5
"""How long messages of an ended run may still arrive, in seconds."""


@dataclass(slots=True)
class Forwarded:
    """What was forwarded: the number of steps with statistics, of points of series, of findings, and of failures."""

    steps: int = 0
    points: int = 0
    findings: int = 0
    failures: int = 0


def forward(run: str, destination: Destination, *, layers: Sequence[str] = ()) -> Forwarded:
    """Forward a run: first what is recorded, then what arrives, until the run ends.

    layers: names or patterns of layers that get series of their own.

    Raises NothingToConnectError if there is neither a live run nor a recording of this name, and what the client
    of the tracker raises when it is opened. Later errors of it are counted, and each kind is reported once.
    """
    arrival = threading.Event()
    try:
        client = connect(run, want="observe", name="gradscope forward", on_arrival=arrival.set)
    except NothingToConnectError:
        if _recording_of(run) is None:
            raise
        client = None
    with contextlib.ExitStack() as opened:
        if client is not None:
            opened.enter_context(client)
        forwarding = _Forwarding(open_tracker(run, destination), run, layers)
        opened.callback(forwarding.close)
        forwarding.take_recorded()
        if client is not None and forwarding.follow(client, arrival):
            forwarding.take_recorded()  # steps that the hub has not sent, because they came too fast
    return forwarding.forwarded


def forward_recorded(
    recording: Recording,
    destination: Destination,
    *,
    layers: Sequence[str] = (),
    first: int | None = None,
    last: int | None = None,
) -> Forwarded:
    """Forward what is in a recording, from step `first` to `last`, both included; by default all.

    layers: names or patterns of layers that get series of their own. Raises as `forward` does.
    """
    low, high = first or 0, math.inf if last is None else last
    run = recording.info.run
    forwarding = _Forwarding(open_tracker(run, destination), run, layers)
    with contextlib.closing(forwarding):
        forwarding.take(recording.manifests())
        forwarding.take(_cut(message, low, high) for message in recording.scalars())
        forwarding.take(event for event in recording.events() if low <= event.step <= high)
        forwarding.take_steps(step for step in recording.steps() if low <= step.step <= high)
    return forwarding.forwarded


def _cut(message: Scalars, low: float, high: float) -> Scalars:
    """Return the scalars of the steps from `low` to `high`."""
    kept = [place for place, step in enumerate(message.steps) if low <= step <= high]
    if len(kept) == len(message.steps):
        return message
    return msgspec.structs.replace(
        message,
        steps=tuple(message.steps[place] for place in kept),
        times_s=tuple(message.times_s[place] for place in kept),
        values={
            name: tuple(values[place] for place in kept) for name, values in message.values.items()
        },
    )


def _recording_of(run: str) -> Path | None:
    if hub_address().is_remote:
        return None  # it is on that machine
    return next((info.path for info in list_recordings() if info.run == run and not info.problem), None)


@dataclass(slots=True)
class _Forwarding:
    """A run on its way into a tracker. Scalars and steps that were forwarded before are skipped."""

    tracker: Tracker
    run: str
    layers: Sequence[str]
    forwarded: Forwarded = field(default_factory=Forwarded)
    _ranks: RunState = field(default_factory=RunState)
    _scalar_steps: dict[str, int] = field(default_factory=dict)
    """For each scalar its newest step. Those of one step may arrive in several messages."""

    _steps: set[int] = field(default_factory=set)
    _findings: set[tuple[object, ...]] = field(default_factory=set)
    _finding_steps: list[int] = field(default_factory=list)
    _layer_steps: dict[str, int] = field(default_factory=dict)
    """For each layer with a finding the step in which the first one was found."""

    _reported: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._ranks.watch(self.run)

    def follow(self, client: Client, arrival: threading.Event) -> bool:
        """Forward what arrives, until the run has ended. Return whether some steps have not arrived."""
        client.watch(self.run, max_rate_hz=1000.0, ranks="merged")
        ended_s: float | None = None
        has_gap = False
        while ended_s is None or time.monotonic() - ended_s < _LAST_S:
            is_new = arrival.wait(_POLL_S)
            arrival.clear()
            while items := client.take(64):
                for item in items:
                    has_gap |= isinstance(item, Skipped)
                    if isinstance(item, dict):
                        self._take_step(item)
                    else:
                        self.take([item])
            if not is_new:
                is_live = any(info.is_live for info in client.runs(30.0) if info.run == self.run)
                ended_s = None if is_live else ended_s or time.monotonic()
        return has_gap

    def take_recorded(self) -> None:
        """Forward what is recorded and was not forwarded yet."""
        path = _recording_of(self.run)
        if path is not None:
            with open_recording(path) as recording:
                self.take(recording.manifests())
                self.take(recording.scalars())
                self.take(recording.events())
                self.take_steps(recording.steps())

    def take(self, messages: Iterable[Message]) -> None:
        """Forward scalars and findings. Steps are taken by `take_steps`, since ranks are merged."""
        for message in messages:
            if isinstance(message, Manifest):
                self._ranks.store_message(message)
            elif isinstance(message, Scalars) and not message.rank:
                self._take_scalars(message)
            elif isinstance(message, Event) and message.finding is not None:
                self._take_finding(message.time_s, message.step, message.finding)

    def take_steps(self, messages: Iterable[Step]) -> None:
        """Forward observed steps in order; those of all ranks of one step follow each other."""
        ranks: RankSteps = {}
        for message in messages:
            if ranks and message.step != next(iter(ranks.values())).step:
                self._take_step(ranks)
                ranks = {}
            ranks[message.rank] = message
        if ranks:
            self._take_step(ranks)

    def close(self) -> None:
        """Close the run of the tracker."""
        self._attempt(self.tracker.close)

    def _take_scalars(self, message: Scalars) -> None:
        for place, (step, time_s) in enumerate(zip(message.steps, message.times_s, strict=True)):
            found = {
                name: value
                for name, values in message.values.items()
                if (value := values[place]) is not None and step > self._scalar_steps.get(name, -1)
            }
            self._scalar_steps |= dict.fromkeys(found, step)
            self._log(step, time_s, found)

    def _take_step(self, ranks: RankSteps) -> None:
        first = next(iter(ranks.values()))
        table = self._ranks.table(ranks, is_of_all=False)
        if first.step in self._steps or table is None:
            return
        self._steps.add(first.step)
        self.forwarded.steps += 1
        numbers = {
            "gradscope/findings": _until(first.step, self._finding_steps),
            "gradscope/layers_with_findings": _until(first.step, self._layer_steps.values()),
        }
        self._log(first.step, first.time_s, step_series(table) | numbers | self._of_layers(table))

    def _of_layers(self, table: Table) -> dict[str, float]:
        return layer_series(table, match_names(self.layers, list(table))) if self.layers else {}

    def _take_finding(self, time_s: float, step: int, finding: Finding) -> None:
        key = (finding.code, finding.layers, finding.found_step, finding.message)
        if key in self._findings:
            return
        self._findings.add(key)
        self._finding_steps.append(step)
        for layer in finding.layers:
            self._layer_steps.setdefault(layer, step)
        if self._attempt(lambda: self.tracker.report(step, time_s, finding)):
            self.forwarded.findings += 1

    def _log(self, step: int, time_s: float, values: dict[str, float]) -> None:
        if values and self._attempt(lambda: self.tracker.log(step, time_s, values)):
            self.forwarded.points += len(values)

    def _attempt(self, call: Callable[[], object]) -> bool:
        """Call the tracker; report and count an error of it, and return whether there was none."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever a tracker raises must not end the others' numbers
            self.forwarded.failures += 1
            text = f"{type(error).__name__}: {error}"
            if text not in self._reported and len(self._reported) < _REPORTS:
                self._reported.add(text)
                sys.stderr.write(f"gradscope: the tracker failed: {text}\n")
            return False
        return True


def _until(step: int, steps: Iterable[int]) -> float:
    return float(sum(each <= step for each in steps))


_REPORTS = 5
"""Different errors of a tracker that are printed."""
