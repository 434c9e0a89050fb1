"""The newest messages of one rank, kept for viewers that connect later. Bounded in number and bytes.

Steps and events are kept as the bytes that arrived. Scalars arrive in many small messages and are
merged into larger ones, so that a late viewer receives hundreds of messages instead of tens of
thousands.
"""

import math
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeAlias, TypeVar

from gradscope.protocol import Scalars

__all__ = ["Parts", "RankHistory"]

Parts: TypeAlias = list[bytes]
Item = TypeVar("Item")

STEP_LIMIT = 600
STEP_LIMIT_BYTES = 32 * 2**20
SCALARS_LIMIT_BYTES = 4 * 2**20
EVENT_LIMIT = 200
READING_LIMIT = 240
READING_LIMIT_BYTES = 8 * 2**20

_MERGED_LIMIT_BYTES = 64 * 1024


class _BoundedQueue(Generic[Item]):
    """The newest items, with their sizes. Keeps at least `least` items, whatever their size."""

    def __init__(self, limit: float, limit_bytes: float, least: int = 1) -> None:
        self._limit, self._limit_bytes, self._least = limit, limit_bytes, least
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0

    def __iter__(self) -> Iterator[Item]:
        return (item for item, _ in self._items)

    def add(self, item: Item, size_bytes: int) -> None:
        """Add an item, and drop the oldest items beyond the limits."""
        self._items.append((item, size_bytes))
        self._bytes += size_bytes
        while len(self._items) > self._limit or (
            self._bytes > self._limit_bytes and len(self._items) > self._least
        ):
            self._bytes -= self._items.popleft()[1]

    def pop_newest(self) -> tuple[Item, int] | None:
        """Remove and return the newest item and its size; None if there is none."""
        if not self._items:
            return None
        item, size_bytes = self._items.pop()
        self._bytes -= size_bytes
        return item, size_bytes


class RankHistory:
    """The newest steps, scalars, events, and readings of memory and time of one rank, oldest first."""

    def __init__(self) -> None:
        self.steps: _BoundedQueue[Parts] = _BoundedQueue(STEP_LIMIT, STEP_LIMIT_BYTES)
        self.scalars: _BoundedQueue[Scalars] = _BoundedQueue(math.inf, SCALARS_LIMIT_BYTES)
        self.events: deque[Parts] = deque(maxlen=EVENT_LIMIT)
        # Two readings: the newest of memory and of time.
        self.readings: _BoundedQueue[Parts] = _BoundedQueue(READING_LIMIT, READING_LIMIT_BYTES, 2)

    def add_step(self, parts: Parts) -> None:
        """Store a step. Drop the oldest steps beyond 600 steps or 32 MB."""
        self.steps.add(parts, sum(map(len, parts)))

    def add_scalars(self, message: Scalars, size_bytes: int) -> None:
        """Store scalars, merged into the newest message if both have the same names."""
        newest = self.scalars.pop_newest()
        if newest is not None:
            last, last_bytes = newest
            together = last_bytes + size_bytes
            if last.values.keys() == message.values.keys() and together <= _MERGED_LIMIT_BYTES:
                message, size_bytes = _merge(last, message), together
            else:
                self.scalars.add(last, last_bytes)
        self.scalars.add(message, size_bytes)

    def add_reading(self, parts: Parts) -> None:
        """Store a reading of memory or time. Drop the oldest beyond 240 readings or 8 MB."""
        self.readings.add(parts, sum(map(len, parts)))


def _merge(first: Scalars, second: Scalars) -> Scalars:
    return Scalars(
        run=first.run,
        rank=first.rank,
        steps=first.steps + second.steps,
        times_s=first.times_s + second.times_s,
        values={name: values + second.values[name] for name, values in first.values.items()},
    )
