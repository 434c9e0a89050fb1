"""`RecordedRun`: reads a recording for the screens, at any observed step, a few steps at a time."""

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import groupby

import msgspec

from gradscope.protocol import (
    Backfill,
    Memory,
    Message,
    RunInfo,
    Scalars,
    Step,
    Times,
)
from gradscope.recording import Recording
from gradscope_tui.store.run import RunStore
from gradscope_tui.store.timeline import Landmark, landmarks_of, place_of

__all__ = ["RecordedRun"]

_PAST = 48
"""The observed steps that are read with the shown one: the trend needs 24, the heat about 50."""

_MORE = 192
"""Earlier ones, which are read afterwards for the curves of a layer."""

_SCALARS = 2_000
"""The newest steps whose scalars are shown, as many as the store keeps."""


class RecordedRun:
    """Reads a recording; only the thread that has opened it may call its methods.

    `steps` are the observed steps. A position is an index in them. The last position also has what came after it, such
    as the error that ended the run. Without an observed step there is one position, 0, which has everything.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        info = recording.info
        self.run, self.reason = info.run, info.reason
        self.is_ended = info.ended_s is not None
        self.steps = recording.step_numbers()
        self.first, self.last = info.first_step or 0, info.last_step or 0
        self._manifests = recording.manifests()
        self._events = list(recording.events())
        self._scalars = list(recording.scalars())
        self._interventions = list(recording.interventions())
        self._resources: list[Memory | Times] = [*recording.memory(), *recording.times()]
        ranks = sorted({manifest.rank for manifest in self._manifests}) or [0]
        self.infos = tuple(
            RunInfo(
                run=info.run, rank=rank, world_size=len(ranks), host=info.host, pid=info.pid, user="",
                script=info.script, started_s=info.started_s, is_live=False, step=info.last_step,
                last_message_s=info.ended_s or info.started_s, recording=str(info.path), reason=info.reason,
            )
            for rank in ranks
        )  # fmt: skip
        self.landmarks = tuple(sorted(self._landmarks(), key=lambda mark: (mark.step, mark.sign)))

    @property
    def last_place(self) -> int:
        """The last position."""
        return max(0, len(self.steps) - 1)

    def place_of(self, step: int) -> int:
        """Return the position of the first observed step that is not before `step`; the last one if there is none."""
        return place_of(self.steps, step)

    def store_at(self, place: int, rank: int | None = None) -> RunStore:
        """Return what a viewer showed at this position. rank: the selected rank; None: all ranks merged."""
        until = math.inf if place >= self.last_place else self.steps[place]
        store = RunStore(self.run)
        store.ranks.note_runs(self.infos)
        store.ranks.choice = rank
        store.feed(
            Backfill(run=self.run, state="begin", count=0)
        )  # so that old events are not announced
        for message in self._before(until):
            store.feed(message)
        steps = self._readable_steps(place)
        if not steps:
            for manifest in self._manifests:
                store.feed(manifest)
        self._feed_steps(store, steps)
        for reading in self._resources:
            if reading.step <= until:
                store.feed(reading)
        for lost in self._recording.lost:
            store.note("warning", f"the recording is damaged: {lost}")
        return store

    def _readable_steps(self, place: int) -> list[Step]:
        """Return the step at a position and those before it; in a damaged recording the nearest ones before it."""
        while self.steps and place >= 0:
            steps = self._recording.steps_near(self.steps[place], _PAST)
            if steps:
                return steps
            place -= _PAST
        return []

    def earlier_steps(self, place: int) -> list[Step]:
        """Return the observed steps before those of `store_at`, for the curves."""
        before = place - _PAST
        return [] if before < 0 else self._recording.steps_near(self.steps[before], _MORE)

    def _feed_steps(self, store: RunStore, steps: Sequence[Step]) -> None:
        """Feed steps as a client hands them out: each message, then all ranks of a step together.

        Before a step comes the manifest that was valid in it, so that its rows have the layers of then.
        """
        manifests = {(manifest.rank, manifest.revision): manifest for manifest in self._manifests}
        revisions: dict[int, int] = {}
        for _, messages in groupby(steps, key=lambda message: message.step):
            ranks = {message.rank: message for message in messages}
            for rank, message in ranks.items():
                key = rank, message.manifest_revision
                if revisions.get(rank) != message.manifest_revision and key in manifests:
                    revisions[rank] = message.manifest_revision
                    store.feed(manifests[key])
            for message in ranks.values():
                store.feed(message)
            store.feed(ranks)

    def _before(self, until: float) -> Iterator[Message]:
        """Yield scalars, events and interventions as they were at the end of a step."""
        since = min(until, self.last) - _SCALARS
        for scalars in self._scalars:
            if scalars.steps and scalars.steps[0] <= until and scalars.steps[-1] >= since:
                yield _cut(scalars, until)
        yield from (event for event in self._events if event.step <= until)
        for (
            message
        ) in self._interventions:  # all of them: each may have an effect that is marked in plots
            if message.step <= until:
                yield msgspec.structs.replace(message, pause=None)  # a pause of then is none of now

    def _landmarks(self) -> Iterator[Landmark]:
        findings = {
            (event.finding.code, event.finding.layers, event.finding.found_step): event.finding
            for event in self._events
            if event.finding is not None
        }
        states = {
            state.id: state
            for message in self._interventions
            for state in message.entries
            if state.active_since is not None
        }
        return landmarks_of(self.steps, findings.values(), states.values())


def _cut(scalars: Scalars, until: float) -> Scalars:
    """Return the scalars of the steps up to one."""
    if scalars.steps[-1] <= until:
        return scalars
    count = bisect_left(scalars.steps, until + 1)
    return msgspec.structs.replace(
        scalars,
        steps=scalars.steps[:count],
        times_s=scalars.times_s[:count],
        values={name: values[:count] for name, values in scalars.values.items()},
    )
