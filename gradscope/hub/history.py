"""The newest messages of one rank, kept for viewers that connect later. Bounded in number and bytes.

Steps and events are kept as the bytes that arrived. Scalars arrive in many small messages and are
merged into larger ones, so that a late viewer receives hundreds of messages instead of tens of
thousands.
"""

import math
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeAlias, TypeVar

from gradscope.protocol import Scalars, encode

__all__ = ["BoundedQueue", "Parts", "RankHistory", "size_bytes"]

Parts: TypeAlias = list[bytes]
Item = TypeVar("Item")

STEP_LIMIT = 600
STEP_LIMIT_BYTES = 32 * 2**20
SCALARS_LIMIT_BYTES = 4 * 2**20
EVENT_LIMIT = 200
EVENT_LIMIT_BYTES = 4 * 2**20
READING_LIMIT = 240
READING_LIMIT_BYTES = 8 * 2**20

_MERGED_LIMIT_BYTES = 64 * 1024


def size_bytes(parts: Parts) -> int:
    """Return the size of a message, all its parts together."""
    return sum(map(len, parts))


class BoundedQueue(Generic[Item]):
    """The newest items, with their sizes. Keeps at least `least` items, whatever their size."""

    def __init__(self, limit: float, limit_bytes: float, least: int = 1) -> None:
        self._limit, self._limit_bytes, self._least = limit, limit_bytes, least
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0

    def __iter__(self) -> Iterator[Item]:
        return (item for item, _ in self._items)

    def __len__(self) -> int:
        return len(self._items)

    @property
    def size_bytes(self) -> int:
        """The size of all items."""
        return self._bytes

    @property
    def oldest(self) -> Item:
        """The oldest item. Raises IndexError if there is none."""
        return self._items[0][0]

    def add(self, item: Item, size_bytes: int) -> int:
        """Add an item, and drop the oldest items beyond the limits. Return the number of dropped items."""
        self._items.append((item, size_bytes))
        self._bytes += size_bytes
        dropped = 0
        while len(self._items) > self._limit or (
            self._bytes > self._limit_bytes and len(self._items) > self._least
        ):
            self.pop_oldest()
            dropped += 1
        return dropped

    def pop_oldest(self) -> None:
        """Remove the oldest item. Raises IndexError if there is none."""
        self._bytes -= self._items.popleft()[1]

    def clear(self) -> None:
        """Remove all items."""
        self._items.clear()
        self._bytes = 0


class RankHistory:
    """The newest steps, scalars, events, and readings of memory and time of one rank, oldest first."""

    def __init__(self) -> None:
        self.steps: BoundedQueue[Parts] = BoundedQueue(STEP_LIMIT, STEP_LIMIT_BYTES)
        self.scalars: BoundedQueue[Parts] = BoundedQueue(math.inf, SCALARS_LIMIT_BYTES)
        self._newest_scalars: Scalars | None = None
        self._newest_scalars_bytes = 0
        self.events: BoundedQueue[Parts] = BoundedQueue(EVENT_LIMIT, EVENT_LIMIT_BYTES)
        # Two readings: the newest of memory and of time.
        self.readings: BoundedQueue[Parts] = BoundedQueue(READING_LIMIT, READING_LIMIT_BYTES, 2)

    def add_step(self, parts: Parts) -> None:
        """Store a step. Drop the oldest steps beyond 600 steps or 32 MB."""
        self.steps.add(parts, size_bytes(parts))

    def add_scalars(self, message: Scalars, size_bytes: int) -> None:
        """Store scalars, merged into the newest message if both have the same names."""
        last = self._newest_scalars
        if last is not None:
            together = self._newest_scalars_bytes + size_bytes
            if last.values.keys() == message.values.keys() and together <= _MERGED_LIMIT_BYTES:
                message, size_bytes = _merge(last, message), together
            else:
                parts = encode(last)  # bytes take a quarter of the memory of its numbers
                self.scalars.add(parts, len(parts[0]))
        self._newest_scalars, self._newest_scalars_bytes = message, size_bytes

    def past_scalars(self) -> list[Parts]:
        """Return all scalars, as messages."""
        newest = self._newest_scalars
        return [*self.scalars, *([] if newest is None else [encode(newest)])]

    def add_reading(self, parts: Parts) -> None:
        """Store a reading of memory or time. Drop the oldest beyond 240 readings or 8 MB."""
        self.readings.add(parts, size_bytes(parts))

    def add_event(self, parts: Parts) -> None:
        """Store an event. Drop the oldest beyond 200 events or 4 MB."""
        self.events.add(parts, size_bytes(parts))

    @property
    def size_bytes(self) -> int:
        """The memory of all messages, which viewers' queues may share."""
        return sum(each.size_bytes for each in (self.steps, self.scalars, self.events, self.readings))

    def drop_half_of_steps(self) -> None:
        """Drop the older half of the steps."""
        for _ in range(-(-len(self.steps) // 2)):
            self.steps.pop_oldest()


def _merge(first: Scalars, second: Scalars) -> Scalars:
    return Scalars(
        run=first.run,
        rank=first.rank,
        steps=first.steps + second.steps,
        times_s=first.times_s + second.times_s,
        values={name: values + second.values[name] for name, values in first.values.items()},
    )
