"""Sends messages to one viewer without delaying the hub or other viewers.

Messages are sent in this order: the newest state (list of runs, manifests, interventions), answers to
commands, the past of the run (for a late viewer), events and scalars in order, focus steps, observed
steps.

Each step, past or live, observed or focus, uses one credit; the viewer grants credit as it processes
steps. Focus steps leave the last credit for an observed step. Without credit, or above the viewer's
rate, the newest observed steps of each rank wait. Then the newest step that all ranks have reported is
sent; `Skipped` reports the number of steps that were left out. At most 16 focus steps wait; older ones
are dropped and counted.
"""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from gradscope.hub.history import BoundedQueue, Parts, size_bytes
from gradscope.hub.ranks.alignment import Chosen, RankAlignment
from gradscope.protocol import Skipped, Subscribe, encode

if TYPE_CHECKING:
    from gradscope.hub.ranks.merged_run import MergedRun

__all__ = ["Past", "ViewerDelivery"]

_QUEUE_LIMIT = 2_000
_QUEUE_LIMIT_BYTES = 32 * 2**20
_CREDIT_LIMIT = 10_000
_FOCUS_STEPS_LIMIT = 16
_PAST_AT_ONCE = 50
_PAST_AT_ONCE_S = 0.02
_RETRY_S = 0.01

Past = Iterator[tuple[Parts, bool]]
"""Past messages, oldest first; the flag is True if the message is a step."""


class ViewerDelivery:
    """One viewer's subscription and queues. `send` returns False if the socket's queue is full."""

    def __init__(self, send: Callable[[Parts], bool], counts: Counter[str]) -> None:
        self._send = send
        self._counts = counts
        self._subscription: Subscribe | None = None
        self._credit = 0
        self._past: Past = iter(())
        self._past_head: tuple[Parts, bool] | None = None
        self._state: dict[Hashable, Parts] = {}
        self._answers: BoundedQueue[Parts] = BoundedQueue(_QUEUE_LIMIT, _QUEUE_LIMIT_BYTES)
        self._queue: BoundedQueue[Parts] = BoundedQueue(_QUEUE_LIMIT, _QUEUE_LIMIT_BYTES)
        self._focus_steps: deque[Parts] = deque()
        self._alignment = RankAlignment(counts)
        self._chosen: deque[Chosen] = deque()
        self._due_s = 0.0
        self._merged: MergedRun | None = None
        self._merged_seen = self._merged_skipped = 0
        self._is_merged_waiting = False

    @property
    def run(self) -> str:
        """The name of the subscribed run; empty if there is none."""
        return self._subscription.run if self._subscription else ""

    @property
    def is_merged(self) -> bool:
        """Whether the viewer receives the ranks merged."""
        return self._merged is not None

    def takes(self, rank: int) -> bool:
        """Return whether the viewer receives the messages of this rank."""
        if self._merged is not None:
            return rank == self._merged.lead
        return self._subscription is None or self._subscription.rank in (None, rank)

    def subscribe(self, subscription: Subscribe, past: Past, merged: "MergedRun | None" = None) -> None:
        """Change the subscription, and clear the queues of the previous one.

        merged: the source of the steps, if the viewer receives the ranks merged.
        """
        self._subscription = subscription
        self._past, self._past_head = past, None
        self._state = {key: parts for key, parts in self._state.items() if key == "runs"}
        self._queue.clear()
        self._focus_steps.clear()
        self._drop_waiting_steps()
        self._due_s = 0.0
        self._merged = merged
        self._merged_seen = merged.newest if merged else 0
        self._merged_skipped = 0

    def close(self) -> None:
        """Count what is still queued, because the viewer has left."""
        self._counts["dropped_to_viewers"] += len(self._queue) + len(self._answers)
        self._drop_waiting_steps()

    def _drop_waiting_steps(self) -> None:
        self._counts["skipped_steps"] += self._alignment.clear() + len(self._chosen)
        self._chosen.clear()
        self._counts["skipped_steps"] += self._is_merged_waiting
        self._is_merged_waiting = False

    def add_credit(self, count: int) -> None:
        """Allow `count` more steps to be sent."""
        self._credit = min(self._credit + count, _CREDIT_LIMIT)

    def put_state(self, key: Hashable, parts: Parts) -> None:
        """Queue a message. It replaces a queued message with the same key."""
        self._state.pop(key, None)
        self._state[key] = parts

    def put_answer(self, parts: Parts) -> None:
        """Queue the answer to a command. State is sent first, so it includes the changes of the command."""
        self._counts["dropped_to_viewers"] += self._answers.add(parts, size_bytes(parts))

    def put(self, parts: Parts) -> None:
        """Queue a message to be sent in order. Beyond 2,000 messages or 32 MB, the oldest are dropped."""
        self._counts["dropped_to_viewers"] += self._queue.add(parts, size_bytes(parts))

    def put_step(self, rank: int, step: int, parts: Parts) -> None:
        """Queue an observed step of one rank. Each of these is sent, skipped, or waits."""
        self._counts["offered_steps"] += 1
        self._alignment.put(rank, step, parts)

    def put_focus_step(self, parts: Parts) -> None:
        """Queue a focus step. If 16 are queued, the oldest is dropped."""
        if len(self._focus_steps) >= _FOCUS_STEPS_LIMIT:
            self._focus_steps.popleft()
            self._counts["skipped_focus_steps"] += 1
        self._focus_steps.append(parts)

    def flush(self, now_s: float) -> float:
        """Send the messages that may be sent. Return when to call again.

        The result is a time of time.monotonic(); infinity means after the next event.
        """
        retry_s = now_s + _RETRY_S
        if not (self._send_state() and self._send_all(self._answers)):
            return retry_s
        again_s = self._flush_past(now_s)
        if again_s is not None:
            return again_s
        if not (self._send_all(self._queue) and self._send_focus_steps()):
            return retry_s
        return (
            self._flush_steps(now_s)
            if self._merged is None
            else self._flush_merged(self._merged, now_s)
        )

    def _flush_past(self, now_s: float) -> float | None:
        """Send past messages. Return when to continue; None if all are sent."""
        deadline_s = time.monotonic() + _PAST_AT_ONCE_S
        for _ in range(_PAST_AT_ONCE):
            if time.monotonic() > deadline_s:  # past steps of several ranks are merged here
                break
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

    # These return False if the socket's queue is full.

    def _send_state(self) -> bool:
        for key, parts in list(self._state.items()):
            if not self._send(parts):
                return False
            del self._state[key]
        return True

    def _send_all(self, queue: BoundedQueue[Parts]) -> bool:
        while len(queue) and self._send(queue.oldest):
            queue.pop_oldest()
        return not len(queue)

    def _send_focus_steps(self) -> bool:
        while self._focus_steps and self._credit > 1:
            if not self._send(self._focus_steps[0]):
                return False
            self._focus_steps.popleft()
            self._credit -= 1
        return True

    def _flush_steps(self, now_s: float) -> float:
        while self._subscription is not None:
            while self._chosen:
                if self._credit <= 0:
                    return math.inf
                if not self._send_step(self._chosen[0]):
                    return now_s + _RETRY_S
                self._chosen.popleft()
            if self._credit <= 0 or self._alignment.is_empty:
                return math.inf
            if now_s < self._due_s:
                return self._due_s
            chosen, again_s = self._alignment.choose(now_s)
            if not chosen:
                return again_s
            self._chosen.extend(chosen)
            self._due_s = now_s + 1.0 / self._subscription.max_rate_hz
        return math.inf

    def _flush_merged(self, merged: "MergedRun", now_s: float) -> float:
        """Send the newest step of all ranks, if credit, the viewer's rate and the hub's time allow it."""
        merged.poll(now_s)
        again_s = merged.due_s() or math.inf
        self._note_merged(merged)
        if not self._is_merged_waiting or self._credit <= 0 or self._subscription is None:
            return again_s
        ready_s = max(self._due_s, merged.ready_s())
        if now_s < ready_s:
            return min(again_s, ready_s)
        parts = merged.take(now_s)
        if not self._send_skipped(merged) or (parts is not None and not self._send(parts)):
            return now_s + _RETRY_S
        self._is_merged_waiting = False
        self._counts["skipped_steps" if parts is None else "sent_steps"] += 1
        self._credit -= parts is not None
        self._due_s = now_s + 1.0 / self._subscription.max_rate_hz
        return again_s

    def _note_merged(self, merged: "MergedRun") -> None:
        """Count the steps that were offered since the last call: only the newest one waits."""
        offered = merged.newest - self._merged_seen
        if offered:
            skipped = offered - 1 + self._is_merged_waiting
            self._counts["offered_steps"] += offered
            self._counts["skipped_steps"] += skipped
            self._merged_skipped += skipped
            self._merged_seen = merged.newest
            self._is_merged_waiting = True

    def _send_skipped(self, merged: "MergedRun") -> bool:
        if self._merged_skipped:
            step = max(0, merged.step - 1)
            skipped = Skipped(run=self.run, rank=merged.lead, count=self._merged_skipped, step=step)
            if not self._send(encode(skipped)):
                return False
            self._merged_skipped = 0
        return True

    def _send_step(self, chosen: Chosen) -> bool:
        if chosen.skipped:
            skipped = Skipped(run=self.run, rank=chosen.rank, count=chosen.skipped, step=chosen.last)
            if not self._send(encode(skipped)):
                return False
            self._chosen[0] = replace(chosen, skipped=0)
        if not self._send(chosen.parts):
            return False
        self._counts["sent_steps"] += 1
        self._credit -= 1
        return True
