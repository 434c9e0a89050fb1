"""`Inbox`: the stream on its way from the link's thread to its reader, in order and bounded."""

import threading
import time
from collections import deque

from gradscope.protocol import Message, Step

__all__ = ["Inbox"]

LIMIT = 2_000


class Inbox:
    """Messages in order. Where the reader does not keep up, the oldest go and are counted."""

    def __init__(self) -> None:
        self._messages: deque[Message] = deque()
        self._arrival = threading.Condition()
        self._held_steps = 0
        self._is_closed = False
        self.dropped = 0

    def put(self, messages: list[Message]) -> None:
        """Add messages at the end."""
        with self._arrival:
            for message in messages:
                if len(self._messages) >= LIMIT:
                    self.dropped += 1
                    self._note_gone(self._messages.popleft())
                self._messages.append(message)
                self._held_steps += isinstance(message, Step)
            self._arrival.notify_all()

    def take(self, timeout_s: float) -> list[Message]:
        """Return all that is there, after waiting up to `timeout_s` for the first."""
        with self._arrival:
            self._arrival.wait_for(self._is_over_or_filled, timeout_s)
            return self._drain()

    def take_one(self, deadline_s: float | None) -> Message | None:
        """Return the oldest message; None when none came until `deadline_s` (monotonic)."""
        with self._arrival:
            wait_s = None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
            self._arrival.wait_for(self._is_over_or_filled, wait_s)
            if not self._messages:
                return None
            message = self._messages.popleft()
            self._note_gone(message)
            return message

    def clear(self) -> None:
        """Forget what belongs to a subscription, as all messages with a run do."""
        with self._arrival:
            kept = [message for message in self._messages if not hasattr(message, "run")]
            self._messages = deque(kept)
            self._held_steps = 0

    @property
    def held_steps(self) -> int:
        """The number of steps that wait to be read."""
        return self._held_steps

    def close(self) -> None:
        """Let go whoever waits."""
        with self._arrival:
            self._is_closed = True
            self._arrival.notify_all()

    def _is_over_or_filled(self) -> bool:
        return self._is_closed or bool(self._messages)

    def _drain(self) -> list[Message]:
        messages = list(self._messages)
        self._messages.clear()
        for message in messages:
            self._note_gone(message)
        return messages

    def _note_gone(self, message: Message) -> None:
        self._held_steps -= isinstance(message, Step)
