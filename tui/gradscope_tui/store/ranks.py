"""`Ranks`: the streams of a run's ranks made into the one that is shown: merged, or that of one rank.

What comes out looks as if the run had one rank. Steps are merged when all ranks have told of them.
Interventions are the same on all ranks and come from the lowest; so do scalars while ranks are merged.
Focus steps are shown only if one rank is chosen; they are not merged.
Events come from all of them.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Final, TypeVar

import msgspec

from gradscope.columns import Block, RankAssembly, merge_ranks
from gradscope.errors import ProtocolError
from gradscope.protocol import (
    Event,
    Layer,
    Manifest,
    Message,
    RunInfo,
    Step,
    pack_layers,
    unpack_layers,
)
from gradscope.protocol.bodies import pack_block, unpack_block

__all__ = ["Ranks"]

RankStep = TypeVar("RankStep", bound=Message)

_KEPT: Final = 512
"""Steps of all ranks together that are kept, to show another choice's past at once."""


class Ranks:
    """Lives as long as its run is watched. `choice` is a rank, or None for all of them merged."""

    def __init__(self, run: str) -> None:
        self._run = run
        self.choice: int | None = None
        self._live: tuple[int, ...] = (0,)
        self._size = 1
        self._manifests: dict[int, Manifest] = {}
        self._layers: dict[int, tuple[Layer, ...]] = {}
        self._gathering: RankAssembly[Step] = RankAssembly()
        self._steps: deque[Step] = deque(maxlen=_KEPT)
        self._shown: tuple[int, ...] = ()
        self.unreadable = 0

    def note_runs(self, runs: Sequence[RunInfo]) -> None:
        """Learn which ranks there are."""
        mine = [info for info in runs if info.run == self._run]
        self._size = max((info.world_size for info in mine), default=1)
        self._live = tuple(sorted(info.rank for info in mine if info.is_live)) or (0,)

    @property
    def lowest(self) -> int:
        """The lowest rank that is there: it speaks for all."""
        return min(self._manifests, default=0)

    @property
    def shown(self) -> int:
        """The rank of which that is shown which cannot be merged."""
        return self.lowest if self.choice is None else self.choice

    def in_words(self) -> str:
        """Return what is shown: empty where there is one rank only."""
        if self._size == 1:
            return ""
        if self.choice is not None:
            return f"rank {self.choice} of {self._size}"
        missing = [rank for rank in range(self._size) if rank not in (self._shown or self._live)]
        without = f", without {', '.join(map(str, missing[:4]))}" if missing else ""
        return f"{self._size} ranks merged{without}"

    def choose_next(self) -> Iterator[Message]:
        """Turn to the next choice: merged, then rank after rank. Yields what is known of it."""
        ranks = sorted(self._manifests)
        order: list[int | None] = [None, *ranks] if self._size > 1 else [None]
        place = order.index(self.choice) if self.choice in order else 0
        self.choice = order[(place + 1) % len(order)]
        self._gathering.clear()
        yield from self._manifest()
        for step in sorted(self._steps, key=lambda each: each.step):
            yield from self._show(step)

    def take(self, message: Message) -> Iterator[Message]:
        """Take a message of any rank; yield what is to be shown."""
        rank = getattr(message, "rank", self.lowest)
        match message:
            case Manifest():
                yield from self._take_manifest(message)
            case Step(layers="focus"):  # of one rank: it does not belong among merged steps
                if self._size == 1 or self.choice == rank:
                    yield _as_of_one(message)
            case Step():
                self._steps.append(message)
                yield from self._show(message)
            case Event() if rank != 0:
                yield _as_of_one(message, text=f"rank {rank}: {message.text}")
            case _ if rank == self.shown:
                yield _as_of_one(message) if rank else message
            case _:
                pass

    def _take_manifest(self, message: Manifest) -> Iterator[Message]:
        try:
            self._layers[message.rank] = unpack_layers(message)
        except ProtocolError:
            self.unreadable += 1
            return
        self._manifests[message.rank] = message
        if self.choice is None or self.choice == message.rank:
            yield from self._manifest()

    def _manifest(self) -> Iterator[Manifest]:
        """Yield the manifest of the choice: its own, or that of all the ranks' layers."""
        if self.shown not in self._manifests:
            return
        own = _as_of_one(self._manifests[self.shown])
        every = self._all_layers()
        if self.choice is None and len(every) > len(self._layers[self.shown]):
            body = pack_layers(every.values())
            own = msgspec.structs.replace(own, body=body, layer_count=len(every))
        yield own

    def _all_layers(self) -> dict[str, Layer]:
        """Return the layers of all ranks by name, those of the lowest first."""
        return {layer.name: layer for _, own in sorted(self._layers.items()) for layer in own}

    def _show(self, step: Step) -> Iterator[Message]:
        if self._size == 1 and self.choice is None and step.rank == 0:
            yield step
        elif self.choice is None:
            for gathered in self._gathering.add(step, self._live):
                yield from self._merged(gathered)
        elif step.rank == self.choice:
            yield _as_of_one(step)

    def _merged(self, gathered: dict[int, Step]) -> Iterator[Message]:
        """Yield a step of several ranks as one; of the ranks that are missing nothing is in it."""
        parts: list[tuple[Sequence[str], Block]] = []
        try:
            for rank, step in gathered.items():
                if step.manifest_revision != self._manifests[rank].revision:
                    return
                parts.append((self._names(rank), unpack_block(step)))
            every = tuple(self._all_layers())
            _, block = merge_ranks([(every, _no_rows(parts[0][1])), *parts])
        except (ProtocolError, KeyError, IndexError, ValueError):
            self.unreadable += 1
            return
        first = next(iter(gathered.values()))
        self._shown = tuple(gathered)
        columns, zero, body = pack_block(block)
        yield msgspec.structs.replace(
            first,
            rank=0,
            manifest_revision=self._manifests[self.lowest].revision,
            kinds=block.kinds,
            rows=len(block),
            columns=columns,
            zero=zero,
            body=body,
        )

    def _names(self, rank: int) -> tuple[str, ...]:
        return tuple(layer.name for layer in self._layers[rank])


def _no_rows(block: Block) -> Block:
    """Return a block of the same columns without a row: it brings its layers' order into a merger."""
    return block.taken(slice(0))


def _as_of_one(message: RankStep, **changes: str) -> RankStep:
    """Return a rank's message as if there were no others."""
    return msgspec.structs.replace(message, rank=0, **changes)
