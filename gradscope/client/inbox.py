"""`Inbox`: a bounded queue with the stream of a watched run, from the link's thread to the reader."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TypeAlias

from gradscope.client.state import RankSteps
from gradscope.protocol import Message, Step

__all__ = ["Inbox", "Item"]

LIMIT = 4_000

Item: TypeAlias = Message | RankSteps
"""A message, or a step of the run assembled from the messages of its ranks."""


class Inbox:
    """A queue of at most 4,000 items. If it is full, the oldest item is dropped and counted in `dropped`.

    `on_arrival` is called in the writing thread when items arrive, and not again until the reader has
    taken all of them.
    """

    def __init__(self, on_arrival: Callable[[], object] | None = None) -> None:
        self._items: deque[Item] = deque()
        self._arrival = threading.Condition()
        self._on_arrival = on_arrival
        self._is_notified = False
        self._held_steps = 0
        self._is_closed = False
        self.dropped = 0

    def put(self, items: Sequence[Item]) -> None:
        """Add items at the end."""
        with self._arrival:
            for item in items:
                if len(self._items) >= LIMIT:
                    self.dropped += 1
                    self._note_gone(self._items.popleft())
                self._items.append(item)
                self._held_steps += isinstance(item, Step)
            must_notify, self._is_notified = not self._is_notified, True
            self._arrival.notify_all()
        if must_notify and self._on_arrival is not None:
            self._on_arrival()

    def take(self, most: int | None = None, *, timeout_s: float = 0.0) -> list[Item]:
        """Return the oldest items, after waiting up to `timeout_s` for the first one."""
        with self._arrival:
            if timeout_s > 0:
                self._arrival.wait_for(self._is_closed_or_filled, timeout_s)
            count = len(self._items) if most is None else min(most, len(self._items))
            items = [self._items.popleft() for _ in range(count)]
            for item in items:
                self._note_gone(item)
            self._is_notified = bool(self._items)
            return items

    def take_one(self, deadline_s: float) -> Item | None:
        """Return the oldest item; None if none arrives before `deadline_s` (time.monotonic())."""
        items = self.take(1, timeout_s=max(0.0, deadline_s - time.monotonic()))
        return items[0] if items else None

    def clear(self) -> None:
        """Remove the items of a subscription: all messages with a run, and complete steps."""
        with self._arrival:
            kept = [m for m in self._items if not isinstance(m, dict) and not hasattr(m, "run")]
            self._items = deque(kept)
            self._held_steps = 0

    @property
    def held_steps(self) -> int:
        """The number of unread step messages."""
        return self._held_steps

    def close(self) -> None:
        """End all waiting."""
        with self._arrival:
            self._is_closed = True
            self._arrival.notify_all()

    def _is_closed_or_filled(self) -> bool:
        return self._is_closed or bool(self._items)

    def _note_gone(self, item: Item) -> None:
        self._held_steps -= isinstance(item, Step)
