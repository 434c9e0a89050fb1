"""The publisher: the thread that owns the link. The training thread only puts messages into queues.

The publisher joins or starts the hub, sends queued messages, passes commands to `on_command`, and
announces the run to each new hub. The queues are bounded: if a queue is full, the oldest message is
dropped and counted, a large one first.
"""

import atexit
import logging
import math
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import ClassVar

from gradscope.agent.link.process_end import ExitCodeObserver, exit_reason
from gradscope.errors import GradscopeError
from gradscope.protocol import (
    Ack,
    Bye,
    Command,
    Heartbeat,
    Hello,
    Message,
    Refusal,
    Scalars,
    Welcome,
)
from gradscope.transport import HubAddress, Link, ensure_hub

__all__ = ["NullPublisher", "Publisher"]

_log = logging.getLogger("gradscope")

_QUEUE_LIMIT = 256
_QUEUE_LIMIT_BYTES = 16_000_000
_LEAST_LARGE = 2
_SCALARS_LIMIT = 10_000
_SCALARS_A_MESSAGE = 500
_POLL_S = 0.05
_RETRY_FIRST_S = 0.5
_RETRY_LAST_S = 30.0
_CLOSE_S = 1.0
_LEAST_CLOSE_S = 0.05
_MODEL_GONE_S = 1.0

MakeHeartbeat = Callable[[dict[str, int]], Heartbeat]
_Make = Callable[[], Message]
_Row = tuple[int, float, dict[str, float]]


class Publisher:
    """Sends messages to the hub from its own thread, between `start` and `stop`.

    An error of a callback or of a message is counted in `failures` and logged once; the link continues. Heartbeats
    report the counters to the hub: of the messages that were `queued`, each was sent, or is counted as `queue_dropped`,
    `failures`, `dropped` or `withheld`.
    """

    _exit_deadline_s: ClassVar[float] = math.inf
    """When the process must have exited: all publishers of a process together may delay its exit by one second."""

    _announce: Callable[[], list[Message]]
    _on_command: Callable[[Command], None]
    _on_viewers: Callable[[tuple[str, ...]], None]
    _heartbeat: MakeHeartbeat | None

    def __init__(self, endpoint: str | None, hello: Hello) -> None:
        self._endpoint = endpoint
        self._hello = hello
        self._queue: deque[tuple[_Make, int]] = deque()
        self._queued_bytes = 0
        self._lock = threading.Lock()
        self._scalars: deque[_Row] = deque(maxlen=_SCALARS_LIMIT)
        self._stopping = threading.Event()
        self._stop_at_s = math.inf
        self._bye = Bye(reason="detached")
        self._exit_codes = ExitCodeObserver()
        self._thread: threading.Thread | None = None
        self._link: Link | None = None
        self._controllers: frozenset[str] = frozenset()
        self._pid = os.getpid()
        self._has_warned = False
        self._has_reported = False
        self._counts = Counter(queued=0, queue_dropped=0, scalars_dropped=0, failures=0)
        self.address: HubAddress | None = None

    def start(
        self,
        *,
        announce: Callable[[], list[Message]],
        on_command: Callable[[Command], None],
        on_viewers: Callable[[tuple[str, ...]], None],
        heartbeat: MakeHeartbeat | None = None,
    ) -> None:
        """Start the thread.

        announce: returns the messages that a new hub must receive first.
        on_command: called with each command of a viewer.
        on_viewers: called with the ids of the connected viewers.
        heartbeat: returns the next heartbeat, with the counters of the link that it is given.

        All are called in the publisher thread.
        """
        self._announce, self._on_command, self._on_viewers = announce, on_command, on_viewers
        self._heartbeat = heartbeat
        self._exit_codes.install()
        self._thread = threading.Thread(target=self._run, name="gradscope-publisher", daemon=True)
        self._thread.start()

    def stop(self, bye: Bye | None = None) -> None:
        """Send the queued messages and `bye`, and end the thread. Blocks for at most one second.

        bye: how the run ended. None: as this process does, which is exiting.
        """
        if os.getpid() != self._pid or self._thread is None:
            return
        now_s = time.monotonic()
        deadline_s = now_s + _CLOSE_S
        if bye is None:
            deadline_s = Publisher._exit_deadline_s = min(deadline_s, Publisher._exit_deadline_s)
        self._bye = bye or exit_reason(self._exit_codes.code)
        self._stopping.set()
        self._wake()
        self._thread.join(max(_LEAST_CLOSE_S, deadline_s - now_s))
        self._thread = None

    def stop_soon(self, bye: Bye) -> None:
        """Stop as `stop(bye)` does, but one second later, or as `stop()` does if the process exits before.

        Never blocks, so that the garbage collector can call it in any thread.
        """
        if os.getpid() == self._pid and self._thread is not None:
            self._bye = bye
            atexit.register(self.stop)
            self._stop_at_s = time.monotonic() + _MODEL_GONE_S

    def put(self, make: _Make, size_bytes: int = 0) -> None:
        """Queue a message; the publisher thread calls `make` to build it. Never blocks.

        size_bytes: the memory that the message holds while it is queued, if that is large. The queue is
            limited to 16 MB of such messages, but always holds at least two. These are dropped first, so that a step
            does not cost the answer to a command.
        """
        with self._lock:
            self._queue.append((make, size_bytes))
            self._queued_bytes += size_bytes
            self._counts["queued"] += 1
            while len(self._queue) > _QUEUE_LIMIT or self._queued_bytes > _QUEUE_LIMIT_BYTES:
                large = [index for index, (_, size) in enumerate(self._queue) if size]
                if len(self._queue) <= _QUEUE_LIMIT and len(large) <= _LEAST_LARGE:
                    break
                dropped = large[0] if large else 0
                self._queued_bytes -= self._queue[dropped][1]
                del self._queue[dropped]
                self._counts["queue_dropped"] += 1

    def put_and_send(self, make: _Make) -> None:
        """Queue a message, and send it without delay."""
        self.put(make)
        self._wake()

    def put_scalars(self, step: int, time_s: float, values: dict[str, float]) -> None:
        """Queue the scalars of a step. The scalars of several steps are sent in one message."""
        self._counts["scalars_dropped"] += len(self._scalars) == _SCALARS_LIMIT
        self._scalars.append((step, time_s, values))

    def counters(self) -> dict[str, int]:
        """Return the numbers of queued, sent, dropped and failed messages."""
        return dict(self._counts)

    @property
    def dropped(self) -> int:
        """The number of messages that were dropped because the queue was full."""
        return self._counts["queue_dropped"]

    def _wake(self) -> None:
        link = self._link
        if link is not None:
            link.wake()

    def _run(self) -> None:
        retry_s = _RETRY_FIRST_S
        while not self._must_stop():
            try:
                self.address = ensure_hub(self._endpoint)
                with Link(
                    self.address.agents, self._hello, self._counts, heartbeat=self._next_heartbeat
                ) as self._link:
                    retry_s = _RETRY_FIRST_S
                    self._serve(self._link)
            except (GradscopeError, OSError) as error:
                self._warn_once(str(error))
            except Exception as error:  # noqa: BLE001 - counted and logged; the next attempt may succeed
                self._counts["failures"] += 1
                self._warn_once(f"the link failed: {type(error).__name__}: {error}")
            finally:
                self._link = None
            self._stopping.wait(min(retry_s, max(0.0, self._stop_at_s - time.monotonic())))
            retry_s = min(2 * retry_s, _RETRY_LAST_S)
        self._exit_codes.remove()
        atexit.unregister(self.stop)

    def _must_stop(self) -> bool:
        return self._stopping.is_set() or time.monotonic() >= self._stop_at_s

    def _serve(self, link: Link) -> None:
        """Send and receive until `stop`, or until the link is lost and another hub must be found."""
        while not self._must_stop():
            for message in link.receive(_POLL_S):
                self._on_message(link, message)
                if len(self._queue) > _QUEUE_LIMIT // 2 and link.state.phase == "up":
                    self._send_all(
                        link
                    )  # many commands at once: their answers must not overflow the queue
            if link.state.phase == "up":
                self._send_all(link)
            elif link.state.phase in ("lost", "refused"):
                return
        self._close_link(link)

    def _next_heartbeat(self, counters: dict[str, int]) -> Heartbeat:
        try:
            if self._heartbeat is not None:
                return self._heartbeat(counters)
        except Exception as error:  # noqa: BLE001 - a heartbeat must be sent in any case
            self._report_once("the state of the training thread could not be read", error)
        return Heartbeat(counters=counters)

    def _close_link(self, link: Link) -> None:
        deadline_s = time.monotonic() + _CLOSE_S / 2
        while link.state.phase == "connecting" and time.monotonic() < deadline_s:
            for message in link.receive(_POLL_S):
                self._on_message(link, message)
        if link.state.phase == "up":
            self._send_all(link)
        link.close(self._bye)

    def _on_message(self, link: Link, message: Message) -> None:
        try:
            if isinstance(message, Welcome):
                for each in self._announce():
                    link.send(each)
            elif isinstance(message, Command):
                if message.peer in self._controllers:
                    self._on_command(message)
                else:
                    link.send(_refusal_of_observer(message))
            elif isinstance(message, Heartbeat):
                self._controllers = frozenset(message.controllers)
                self._on_viewers(message.peers)
            elif isinstance(message, Refusal):
                self._warn_once(f"the hub refused this run: {message.reason}")
        except Exception as error:  # noqa: BLE001 - an error here must not end the link
            self._report_once(f"a {type(message).__name__} of the hub could not be handled", error)

    def _send_all(self, link: Link) -> None:
        """Send what is queued, and leave the rest there if the hub does not read."""
        for _ in range(_QUEUE_LIMIT):  # not forever, if the training queues as fast as this sends
            if self._queue and not link.can_send(_POLL_S):
                return
            with self._lock:
                if not self._queue:
                    break
                make, size_bytes = self._queue.popleft()
                self._queued_bytes -= size_bytes
            try:
                link.send(make())
            except Exception as error:  # noqa: BLE001 - as above
                self._report_once("a message could not be made", error)
        while self._scalars and link.can_send(_POLL_S):
            link.send(self._next_scalars())

    def _next_scalars(self) -> Scalars:
        count = min(len(self._scalars), _SCALARS_A_MESSAGE)
        rows = [self._scalars.popleft() for _ in range(count)]
        names = {name for _, _, values in rows for name in values}
        return Scalars(
            run=self._hello.run,
            rank=self._hello.rank,
            steps=tuple(step for step, _, _ in rows),
            times_s=tuple(time_s for _, time_s, _ in rows),
            values={name: tuple(values.get(name) for _, _, values in rows) for name in sorted(names)},
        )

    def _report_once(self, what: str, error: Exception) -> None:
        self._counts["failures"] += 1
        if not self._has_reported:
            self._has_reported = True
            _log.warning(
                "gradscope: %s: %s: %s. Training and the live view continue without it.",
                what, type(error).__name__, error,
            )  # fmt: skip

    def _warn_once(self, reason: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "gradscope: no live view of this run: %s. Training continues; the link is retried.",
                reason,
            )


def _refusal_of_observer(command: Command) -> Ack:
    """Return the answer to a command of a viewer that the hub has not named as one that may control runs."""
    reason = (
        f"the viewer {command.peer!r} may only observe; connect with want='control', and from another machine "
        "with a key that has the role control"
    )
    return Ack(command=command.id, run=command.run, is_done=False, reason=reason)


class NullPublisher:
    """A publisher that sends nothing, for a run without a hub. It has the methods of `Publisher`."""

    dropped = 0
    address: HubAddress | None = None

    def start(
        self,
        *,
        announce: Callable[[], list[Message]],
        on_command: Callable[[Command], None],
        on_viewers: Callable[[tuple[str, ...]], None],
        heartbeat: MakeHeartbeat | None = None,
    ) -> None:
        """Do nothing."""

    def stop(self, bye: Bye | None = None) -> None:
        """Do nothing."""

    def stop_soon(self, bye: Bye) -> None:
        """Do nothing."""

    def put(self, make: _Make, size_bytes: int = 0) -> None:
        """Drop a message."""

    def put_and_send(self, make: _Make) -> None:
        """Drop a message."""

    def put_scalars(self, step: int, time_s: float, values: dict[str, float]) -> None:
        """Drop the scalars."""
