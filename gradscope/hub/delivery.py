"""What one viewer is sent, and when: nothing of it ever holds up the hub or another viewer.

In this order: the newest state (the list of runs, manifests, interventions), answers to commands, the
past of the run (for a viewer that came late), then events and scalars in order, then steps. Each step,
past or live, takes one credit, which the viewer grants as it keeps up. Without credit, or before its
rate allows, the newest step of each rank waits, and the ones that it replaced are counted and told by
`Skipped`.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass

from gradscope.hub.rings import Parts
from gradscope.protocol import Skipped, Subscribe, encode

__all__ = ["Delivery", "Past"]

_QUEUE_LIMIT = 2_000
_CREDIT_LIMIT = 10_000
_PAST_AT_ONCE = 50
_RETRY_S = 0.01

Past = Iterator[tuple[Parts, bool]]
"""Past messages, oldest first, each with whether it is a step."""


@dataclass(slots=True)
class _Waiting:
    """The newest step of a rank, until it may go, and how many others it has replaced."""

    parts: Parts | None = None
    step: int = 0
    due_s: float = 0.0
    skipped: int = 0
    skipped_step: int = 0


class Delivery:
    """One viewer's subscription and what waits for it. `send` returns False when it is full."""

    def __init__(self, send: Callable[[Parts], bool], counts: Counter[str]) -> None:
        self._send = send
        self._counts = counts
        self._subscription: Subscribe | None = None
        self._credit = 0
        self._past: Past = iter(())
        self._past_head: tuple[Parts, bool] | None = None
        self._state: dict[Hashable, Parts] = {}
        self._answers: deque[Parts] = deque(maxlen=_QUEUE_LIMIT)
        self._queue: deque[Parts] = deque()
        self._waiting: dict[int, _Waiting] = {}

    @property
    def run(self) -> str:
        """The run that is subscribed to; empty for none."""
        return self._subscription.run if self._subscription else ""

    def subscribe(self, subscription: Subscribe, past: Past) -> None:
        """Take another subscription; what waits of the former one is let go."""
        self._subscription = subscription
        self._past, self._past_head = past, None
        self._state = {key: parts for key, parts in self._state.items() if key == "runs"}
        self._queue.clear()
        self._waiting.clear()

    def add_credit(self, count: int) -> None:
        """Let `count` more steps go."""
        self._credit = min(self._credit + count, _CREDIT_LIMIT)

    def put_state(self, key: Hashable, parts: Parts) -> None:
        """Queue something of which only the newest of each key matters."""
        self._state.pop(key, None)
        self._state[key] = parts

    def put_answer(self, parts: Parts) -> None:
        """Queue the answer to a command. What it changed is told before it: that is state."""
        self._answers.append(parts)

    def put(self, parts: Parts) -> None:
        """Queue something to be sent in order; the oldest goes when 2,000 wait."""
        if len(self._queue) >= _QUEUE_LIMIT:
            self._queue.popleft()
            self._counts["dropped_to_viewers"] += 1
        self._queue.append(parts)

    def put_step(self, rank: int, step: int, parts: Parts) -> None:
        """Let a live step wait in the place of the one before it."""
        waiting = self._waiting.setdefault(rank, _Waiting())
        if waiting.parts is not None:
            waiting.skipped += 1
            waiting.skipped_step = waiting.step
            self._counts["skipped_steps"] += 1
        waiting.parts, waiting.step = parts, step

    def flush(self, now_s: float) -> float:
        """Send what may go; return when to try again, infinity when only a new event can help."""
        for stage in (
            self._flush_state,
            self._flush_answers,
            self._flush_past,
            self._flush_queue,
            self._flush_steps,
        ):
            again_s = stage(now_s)
            if again_s is not None:
                return again_s
        return math.inf

    # Each stage returns None when it is done and the next may begin, else when to try again.

    def _flush_past(self, now_s: float) -> float | None:
        for _ in range(_PAST_AT_ONCE):
            self._past_head = self._past_head or next(self._past, None)
            if self._past_head is None:
                return None
            parts, is_step = self._past_head
            if is_step and self._credit <= 0:
                return math.inf
            if not self._send(parts):
                return now_s + _RETRY_S
            self._credit -= is_step
            self._past_head = None
        return now_s

    def _flush_state(self, now_s: float) -> float | None:
        for key, parts in list(self._state.items()):
            if not self._send(parts):
                return now_s + _RETRY_S
            del self._state[key]
        return None

    def _flush_answers(self, now_s: float) -> float | None:
        return self._flush_in_order(self._answers, now_s)

    def _flush_queue(self, now_s: float) -> float | None:
        return self._flush_in_order(self._queue, now_s)

    def _flush_in_order(self, queue: deque[Parts], now_s: float) -> float | None:
        while queue:
            if not self._send(queue[0]):
                return now_s + _RETRY_S
            queue.popleft()
        return None

    def _flush_steps(self, now_s: float) -> float | None:
        again_s = math.inf
        for rank, waiting in self._waiting.items():
            if waiting.parts is None:
                continue
            if self._credit <= 0:
                return math.inf
            if now_s < waiting.due_s:
                again_s = min(again_s, waiting.due_s)
            elif not self._send_step(rank, waiting, now_s):
                return now_s + _RETRY_S
        return again_s

    def _send_step(self, rank: int, waiting: _Waiting, now_s: float) -> bool:
        if self._subscription is None or waiting.parts is None:
            return True
        if waiting.skipped:
            skipped = Skipped(run=self.run, rank=rank, count=waiting.skipped, step=waiting.skipped_step)
            if not self._send(encode(skipped)):
                return False
            waiting.skipped = 0
        if not self._send(waiting.parts):
            return False
        waiting.parts = None
        waiting.due_s = now_s + 1.0 / self._subscription.max_rate_hz
        self._credit -= 1
        return True
