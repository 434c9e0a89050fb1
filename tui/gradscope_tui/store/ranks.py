"""`Ranks` selects the data to show of a run with several ranks: all ranks merged, or one rank.

The result looks like the stream of a run with one rank. The hub sends the ranks merged, or one of them. The steps of a
recording are assembled by rank, and their rows are merged here, because only what is shown needs to be. Interventions
are the same on all ranks and come from the lowest one, and so do scalars while ranks are merged. Focus steps are shown
for a selected rank only. Events come from all ranks.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import msgspec

from gradscope.columns import Block, merge_ranks
from gradscope.errors import GradscopeError
from gradscope.protocol import Event, Layer, Manifest, Message, RunInfo, Step, unpack_layers
from gradscope.protocol.bodies import unpack_block

__all__ = ["MergedStep", "Ranks", "Shown"]

_KEPT: Final = 512
"""The number of past steps, over all ranks, that are kept for another selection."""


@dataclass(frozen=True, slots=True)
class MergedStep:
    """A step of several ranks. `block` indexes `Ranks.layers`; `first` is the message of the lowest rank."""

    first: Step
    block: Block


Shown: TypeAlias = Message | MergedStep


class Ranks:
    """The ranks of the watched run, and which of them is shown. `choice` is a rank, or None for all of them merged."""

    def __init__(self, run: str) -> None:
        self._run = run
        self.choice: int | None = None
        self._live: tuple[int, ...] = (0,)
        self._known: tuple[int, ...] = ()
        self._size = 1
        self._manifests: dict[int, Manifest] = {}
        self._layers: dict[int, tuple[Layer, ...]] = {}
        self._past: deque[Step] = deque(maxlen=_KEPT)
        self._past_of_all: deque[Mapping[int, Step]] = deque(maxlen=_KEPT)
        self._past_merged: deque[Step] = deque(maxlen=_KEPT)
        self._merged: tuple[int, ...] = ()
        self.unreadable = 0

    def note_runs(self, runs: Sequence[RunInfo]) -> None:
        """Update the list of ranks from the hub's list of runs."""
        own = [info for info in runs if info.run == self._run]
        self._size = max((info.world_size for info in own), default=1)
        self._known = tuple(info.rank for info in own)
        self._live = tuple(sorted(info.rank for info in own if info.is_live)) or (0,)

    @property
    def size(self) -> int:
        """The number of ranks of the run."""
        return self._size

    @property
    def shown(self) -> int:
        """The rank whose messages are shown if they cannot be merged."""
        return min(self._manifests, default=0) if self.choice is None else self.choice

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of one rank, or of all ranks with the layers of the lowest rank first."""
        own = self._layers.get(self.shown, ())
        every = self._layers_of_all()
        return tuple(every.values()) if self.choice is None and len(every) > len(own) else own

    def in_words(self) -> str:
        """Return the selection as text; empty if the run has one rank."""
        if self._size == 1:
            return ""
        if self.choice in self._merged and 1 < len(self._merged) < self._size:
            return f"ranks {self._merged[0]} to {self._merged[-1]} of {self._size}"  # of one node
        if self.choice is not None:
            return f"rank {self.choice} of {self._size}"
        missing = [rank for rank in range(self._size) if rank not in (self._merged or self._live)]
        without = f", without {', '.join(map(str, missing[:4]))}" if missing else ""
        return f"{self._size} ranks merged{without}"

    def choose_next(self) -> Iterator[Shown]:
        """Select the next choice: merged, then rank after rank. Yields its manifest and past steps."""
        ranks = sorted({*self._manifests, *self._known})
        order: list[int | None] = [None, *ranks] if self._size > 1 else [None]
        place = order.index(self.choice) if self.choice in order else 0
        self.choice = order[(place + 1) % len(order)]
        self._merged = ()
        yield from self._manifest()
        if self.choice is None and self._size > 1:
            for steps in sorted(self._past_of_all, key=lambda each: next(iter(each.values())).step):
                yield from self._merge(steps)
            for step in self._past_merged:
                yield from self._unpack(step)
        else:
            rank = 0 if self.choice is None else self.choice
            yield from sorted((s for s in self._past if s.rank == rank), key=lambda each: each.step)

    def messages_to_show(self, message: Message) -> Iterator[Shown]:
        """Take a message of any rank; yield the messages to show."""
        rank = getattr(message, "rank", self.shown)
        match message:
            case Manifest():
                yield from self._take_manifest(message)
            case Step() if message.ranks:
                self._past_merged.append(message)
                if self.choice in (None, message.rank):
                    yield from self._unpack(message)
            case Step():
                if message.layers == "all":
                    self._past.append(message)
                if rank == self.choice or (self._size == 1 and rank == 0):
                    yield message
            case Event() if rank != 0:
                yield msgspec.structs.replace(message, text=f"rank {rank}: {message.text}")
            case _ if rank == self.shown:
                yield message
            case _:
                pass

    def merged_to_show(self, steps: Mapping[int, Step]) -> Iterator[Shown]:
        """Store a step that all ranks have reported. Yield the merged step if merged steps are shown."""
        if self._size == 1 or any(step.ranks for step in steps.values()):
            return
        self._past_of_all.append(steps)
        while sum(map(len, self._past_of_all)) > _KEPT:
            self._past_of_all.popleft()
        if self.choice is None:
            yield from self._merge(steps)

    def _take_manifest(self, message: Manifest) -> Iterator[Shown]:
        try:
            self._layers[message.rank] = unpack_layers(message)
        except GradscopeError:
            self.unreadable += 1
            return
        self._manifests[message.rank] = message
        if self.choice is None or self.choice == message.rank:
            yield from self._manifest()

    def _manifest(self) -> Iterator[Manifest]:
        if self.shown in self._manifests:
            yield self._manifests[self.shown]

    def _layers_of_all(self) -> dict[str, Layer]:
        return {layer.name: layer for _, own in sorted(self._layers.items()) for layer in own}

    def _unpack(self, step: Step) -> Iterator[MergedStep]:
        """Yield a step that the hub has merged."""
        manifest = self._manifests.get(step.rank)
        if manifest is None or step.manifest_revision != manifest.revision:
            return
        try:
            block = unpack_block(step)
        except GradscopeError:
            self.unreadable += 1
            return
        self._merged = step.ranks
        yield MergedStep(step, block)

    def _merge(self, steps: Mapping[int, Step]) -> Iterator[MergedStep]:
        parts: list[tuple[Sequence[str], Block]] = []
        try:
            for rank, step in steps.items():
                if step.manifest_revision != self._manifests[rank].revision:
                    return
                parts.append(([layer.name for layer in self._layers[rank]], unpack_block(step)))
            no_rows = parts[0][1].taken(slice(0))  # it brings the order of the layers into the merge
            _, block = merge_ranks([(tuple(self._layers_of_all()), no_rows), *parts])
        except (GradscopeError, KeyError, IndexError, ValueError):
            self.unreadable += 1
            return
        self._merged = tuple(steps)
        yield MergedStep(next(iter(steps.values())), block)
