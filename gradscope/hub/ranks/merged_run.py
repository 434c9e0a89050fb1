"""Merges the steps of the ranks of one run into one step each, for all viewers that ask for merged rows.

A viewer then receives as many bytes from 64 ranks as from one, and each step is merged once for all viewers. Only a
step that a viewer is about to receive is merged, and merging takes at most a quarter of the hub's time: beyond that,
viewers receive fewer steps, and the count of those left out.
"""

import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from msgspec.structs import replace

from gradscope.columns import RankAssembly
from gradscope.errors import GradscopeError, ProtocolError
from gradscope.hub.history import Parts
from gradscope.protocol import (
    Manifest,
    Memory,
    Message,
    Step,
    Times,
    decode,
    encode,
    pack_layers,
    unpack_layers,
)
from gradscope.protocol.bodies import merge_steps

__all__ = ["MergedRun"]

Kind = TypeVar("Kind", bound=Message)

_GRACE_S = 0.25
"""How long a step waits for the same step of a rank that was recently active, in seconds."""
_REVISIONS = 4
_SHARE = 0.25
_PAST_S = 0.5
"""Past steps that take longer to merge are left out, the oldest first."""
_LEAST_PAST = 8
_MADE = 2**32
"""The revisions of manifests that the hub itself has made begin here."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A step as a rank has sent it."""

    rank: int
    step: int
    parts: Parts


@dataclass(slots=True)
class _Rank:
    """One rank: its manifests by revision, oldest first, and their layer names where they were needed."""

    manifests: OrderedDict[int, Parts] = field(default_factory=OrderedDict)
    names: dict[int, tuple[str, ...]] = field(default_factory=dict)
    is_awaited: bool = False


class MergedRun:
    """The merged steps of one run. `newest` counts the steps that all ranks have reported; 0 if there is none.

    `unreadable` counts steps that could not be merged: of a faulty agent, or of an unknown manifest.
    """

    def __init__(self) -> None:
        self._ranks: dict[int, _Rank] = {}
        self._assembly: RankAssembly[_Sent] = RankAssembly()
        self._waiting_since_s: float | None = None
        self._whole: dict[int, _Sent] = {}
        self._merged: Parts | None = None
        self._merged_number = 0
        self._ready_s = 0.0
        self._cost_s = 0.0
        self._made_revisions = 0
        self._manifest: tuple[int, tuple[str, ...], Parts] | None = None
        self.newest = 0
        self.step = 0
        self.unreadable = 0

    @property
    def lead(self) -> int:
        """The lowest rank with a manifest. Values that cannot be merged are taken from it."""
        return min((number for number, rank in self._ranks.items() if rank.manifests), default=0)

    def add_manifest(self, rank: int, revision: int, parts: Parts) -> None:
        """Store a manifest of a live rank, and wait for its steps from now on. Keeps the newest four of each rank."""
        of_rank = self._ranks.setdefault(rank, _Rank())
        of_rank.is_awaited = True
        manifests = of_rank.manifests
        manifests.pop(revision, None)
        manifests[revision] = parts
        names = of_rank.names
        names.pop(revision, None)
        while len(manifests) > _REVISIONS:
            names.pop(manifests.popitem(last=False)[0], None)
        self._manifest = None

    def manifest(self) -> Parts | None:
        """Return one manifest for all ranks: the layers of the lowest rank, then those of other ranks only."""
        known = self._known_manifest()
        return None if known is None else known[2]

    def put(self, rank: int, step: int, parts: Parts, now_s: float) -> None:
        """Add a step of one rank. The newest step that all ranks have reported can then be taken."""
        of_rank = self._ranks.setdefault(rank, _Rank())
        of_rank.is_awaited = True
        awaited = [number for number, each in self._ranks.items() if each.is_awaited]
        self._note(self._assembly.add(_Sent(rank, step, parts), awaited), now_s)

    def drop_rank(self, rank: int) -> None:
        """Do not wait for a rank that has ended."""
        if rank in self._ranks:
            self._ranks[rank].is_awaited = False

    def poll(self, now_s: float) -> None:
        """Stop waiting for ranks that have not sent the newest step 0.25 s after another rank."""
        since_s = self._waiting_since_s
        if since_s is None or now_s < since_s + _GRACE_S:
            return
        awaited = [number for number, each in self._ranks.items() if each.is_awaited]
        for number in self._assembly.late(awaited):
            self._ranks[number].is_awaited = False
            awaited.remove(number)
        self._note(self._assembly.finished(awaited), now_s)

    def due_s(self) -> float | None:
        """Return when to call `poll`, by time.monotonic(); None if no step waits for a rank."""
        return None if self._waiting_since_s is None else self._waiting_since_s + _GRACE_S

    def ready_s(self) -> float:
        """Return from when on the newest step may be taken, by time.monotonic()."""
        return 0.0 if self._merged_number == self.newest else self._ready_s

    def take(self, now_s: float) -> Parts | None:
        """Return the newest step as a message, merged once for all viewers; None if it cannot be merged."""
        if self._merged_number != self.newest:
            self._merged_number = self.newest
            self._merged = self._merge(list(self._whole.values()))
            self._ready_s = now_s + self._cost_s / _SHARE
        return self._merged

    def readdressed(self, message: Message, parts: Parts) -> Parts:
        """Return a reading of memory or time of the lowest rank as one of the manifest of all ranks."""
        known = self._known_manifest()
        if known is None or not isinstance(message, Memory | Times) or known[0] < _MADE:
            return parts
        return encode(replace(_decoded(type(message), parts), manifest_revision=known[0]))

    def start(self, newest: dict[int, list[Parts]]) -> None:
        """Add the newest steps of the live ranks, so that a step that some of them have sent can be completed."""
        for number, each in self._ranks.items():
            each.is_awaited = number in newest
        sent = [_sent(rank, parts) for rank, steps in newest.items() for parts in steps]
        for step in sorted(sent, key=lambda step: step.step):
            self.put(step.rank, step.step, step.parts, time.monotonic())

    def past(
        self, histories: dict[int, list[Parts]], live: Collection[int]
    ) -> tuple[int, Iterator[Parts]]:
        """Return how many past steps there are, and an iterator that merges them, oldest first.

        histories: the past steps of each rank, oldest first; live: the ranks that go on. The newest step is left out if
            it still waits for a live rank. Of many ranks only the newest steps are merged, so that a
            viewer that joins costs the hub about half a second at most.
        """
        most = max((len(steps) for steps in histories.values()), default=0)
        count = most
        if most and len(histories) > 1:
            if not self._cost_s:
                self._merge([_sent(rank, steps[-1]) for rank, steps in histories.items() if steps])
            count = min(most, max(_LEAST_PAST, int(_PAST_S / max(self._cost_s, 1e-6))))
        newest = {rank: steps[-count:] for rank, steps in histories.items()} if count else {}
        return count, self._merge_past(newest, live)

    def _merge_past(self, histories: dict[int, list[Parts]], live: Collection[int]) -> Iterator[Parts]:
        assembly: RankAssembly[_Sent] = RankAssembly()
        ranks = [rank for rank, steps in histories.items() if steps]
        for place in range(max((len(steps) for steps in histories.values()), default=0)):
            for rank in ranks:
                if place < len(histories[rank]):
                    sent = _sent(rank, histories[rank][place])
                    yield from self._merge_all(assembly.add(sent, ranks))
        yield from self._merge_all(assembly.finished(live))

    def _merge_all(self, steps: Iterable[dict[int, _Sent]]) -> Iterator[Parts]:
        for each in steps:
            merged = self._merge(list(each.values()))
            if merged is not None:
                yield merged

    def _note(self, finished: list[dict[int, _Sent]], now_s: float) -> None:
        if finished:
            self.newest += len(finished)
            self._whole = finished[-1]
            self.step = next(iter(self._whole.values())).step
        if not self._assembly.is_waiting:
            self._waiting_since_s = None
        elif finished or self._waiting_since_s is None:
            self._waiting_since_s = now_s

    def _merge(self, sent: list[_Sent]) -> Parts | None:
        """Merge one step of several ranks. The step of the only rank stays as it is."""
        known = self._known_manifest()
        if len(self._ranks) == 1 and known is not None and known[0] < _MADE:
            return sent[0].parts
        began_s = time.thread_time()
        try:
            if known is None:
                return None
            revision, layers, _ = known
            parts = []
            for each in sent:
                step = _decoded(Step, each.parts)
                names = self._names(each.rank, step.manifest_revision)
                parts.append((layers if names == layers else names, step))
            merged = merge_steps(parts, layers, manifest_revision=revision)
            encoded = encode(replace(merged, rank=self.lead))
        except (GradscopeError, KeyError, IndexError, ValueError):
            self.unreadable += 1
            return None
        self._cost_s = time.thread_time() - began_s
        return encoded

    def _names(self, rank: int, revision: int) -> tuple[str, ...]:
        """Return the layer names of a manifest of a rank. Raises KeyError if the hub does not have it."""
        of_rank = self._ranks[rank]
        if revision not in of_rank.names:
            of_rank.names[revision] = _names_in(of_rank.manifests[revision])
        return of_rank.names[revision]

    def _known_manifest(self) -> tuple[int, tuple[str, ...], Parts] | None:
        """Return revision, layer names and message of the manifest of all ranks."""
        if self._manifest is None:
            try:
                self._manifest = self._make_manifest()
            except (GradscopeError, KeyError):
                return None
        return self._manifest

    def _make_manifest(self) -> tuple[int, tuple[str, ...], Parts] | None:
        newest = {
            number: next(reversed(rank.manifests.items()))
            for number, rank in sorted(self._ranks.items())
            if rank.manifests
        }
        if not newest:
            return None
        revision, parts = newest[self.lead]
        own = self._names(self.lead, revision)
        bodies = {tuple(others[1:]): number for number, (_, others) in newest.items()}
        if all(self._names(number, newest[number][0]) == own for number in bodies.values()):
            return revision, own, parts
        manifests = [_decoded(Manifest, others) for _, others in newest.values()]
        layers = {
            layer.name: layer for manifest in reversed(manifests) for layer in unpack_layers(manifest)
        }
        order = dict.fromkeys(
            name for number in newest for name in self._names(number, newest[number][0])
        )
        self._made_revisions += 1
        made = replace(
            manifests[0],
            revision=_MADE + self._made_revisions,
            layer_count=len(order),
            body=pack_layers(layers[name] for name in order),
        )
        return made.revision, tuple(order), encode(made)


def _sent(rank: int, parts: Parts) -> _Sent:
    return _Sent(rank, _decoded(Step, parts[:1]).step, parts)


def _names_in(parts: Parts) -> tuple[str, ...]:
    return tuple(layer.name for layer in unpack_layers(_decoded(Manifest, parts)))


def _decoded(kind: type[Kind], parts: Parts) -> Kind:
    """Return a message of this kind. Raises ProtocolError if it is of another one."""
    message = decode(parts)
    if not isinstance(message, kind):
        raise ProtocolError(f"expected a {kind.__name__}, got a {type(message).__name__}")
    return message
