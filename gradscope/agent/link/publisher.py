"""The publisher: the thread that owns the link. The training thread only puts messages into queues.

The publisher joins or starts the hub, sends queued messages, passes commands to `on_command`, and
announces the run to each new hub. The queues are bounded: if a queue is full, the oldest message is
dropped and counted.
"""

import atexit
import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable

from gradscope.agent.link.process_end import ExitCodeObserver, exit_reason
from gradscope.errors import GradscopeError, UsageError
from gradscope.protocol import Bye, Command, Heartbeat, Hello, Message, Refusal, Scalars, Welcome
from gradscope.transport import HubAddress, Link, ensure_hub

__all__ = ["NullPublisher", "Publisher"]

_log = logging.getLogger("gradscope")

_QUEUE_LIMIT = 256
_QUEUE_LIMIT_BYTES = 16_000_000
_SCALARS_LIMIT = 10_000
_SCALARS_A_MESSAGE = 500
_POLL_S = 0.05
_RETRY_FIRST_S = 0.5
_RETRY_LAST_S = 30.0
_CLOSE_S = 1.0
_MODEL_GONE_S = 1.0

_Make = Callable[[], Message]
_Row = tuple[int, float, dict[str, float]]


class Publisher:
    """Sends messages to the hub from its own thread, between `start` and `stop`."""

    _announce: Callable[[], list[Message]]
    _on_command: Callable[[Command], None]
    _on_viewers: Callable[[tuple[str, ...]], None]

    def __init__(self, endpoint: str | None, hello: Hello) -> None:
        self._endpoint = endpoint
        self._hello = hello
        self._queue: deque[_Make] = deque()
        self._scalars: deque[_Row] = deque(maxlen=_SCALARS_LIMIT)
        self._stopping = threading.Event()
        self._stop_at_s = math.inf
        self._bye = Bye(reason="detached")
        self._exit_codes = ExitCodeObserver()
        self._thread: threading.Thread | None = None
        self._link: Link | None = None
        self._pid = os.getpid()
        self._has_warned = False
        self.dropped = 0
        self.failures = 0
        self.address: HubAddress | None = None

    def start(
        self,
        *,
        announce: Callable[[], list[Message]],
        on_command: Callable[[Command], None],
        on_viewers: Callable[[tuple[str, ...]], None],
    ) -> None:
        """Start the thread.

        announce: returns the messages that a new hub must receive first.
        on_command: called with each command of a viewer.
        on_viewers: called with the ids of the connected viewers.

        All three are called in the publisher thread.
        """
        self._announce, self._on_command, self._on_viewers = announce, on_command, on_viewers
        self._exit_codes.install()
        self._thread = threading.Thread(target=self._run, name="gradscope-publisher", daemon=True)
        self._thread.start()

    def stop(self, bye: Bye | None = None) -> None:
        """Send the queued messages and `bye`, and end the thread. Blocks for at most one second.

        bye: how the run ended. None: as this process does, which is exiting.
        """
        if os.getpid() != self._pid or self._thread is None:
            return
        self._bye = bye or exit_reason(self._exit_codes.code)
        self._stopping.set()
        self._wake()
        self._thread.join(_CLOSE_S + 0.5)
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
            limited to 16 MB of such messages, but always holds at least two.
        """
        limit = _QUEUE_LIMIT
        if size_bytes:
            limit = min(limit, max(2, _QUEUE_LIMIT_BYTES // size_bytes))
        while len(self._queue) >= limit:
            self._drop_oldest()
        self._queue.append(make)

    def put_and_send(self, make: _Make) -> None:
        """Queue a message, and send it without delay."""
        self.put(make)
        self._wake()

    def put_scalars(self, step: int, time_s: float, values: dict[str, float]) -> None:
        """Queue the scalars of a step. The scalars of several steps are sent in one message."""
        self._scalars.append((step, time_s, values))

    def counters(self) -> dict[str, int]:
        """Return the numbers of sent, dropped and failed messages."""
        link = self._link.counters if self._link is not None else {}
        return {**link, "queue_dropped": self.dropped, "failures": self.failures}

    def _drop_oldest(self) -> None:
        try:
            self._queue.popleft()
        except IndexError:  # the thread was quicker
            return
        self.dropped += 1

    def _wake(self) -> None:
        link = self._link
        if link is not None:
            link.wake()

    def _run(self) -> None:
        retry_s = _RETRY_FIRST_S
        while not self._must_stop():
            try:
                self.address = ensure_hub(self._endpoint)
                with Link(self.address.agents, self._hello) as self._link:
                    retry_s = _RETRY_FIRST_S
                    self._serve(self._link)
            except (GradscopeError, OSError) as error:
                self._warn_once(str(error))
            except Exception as error:  # noqa: BLE001 - counted and logged; the next attempt may succeed
                self.failures += 1
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
            if link.state.phase == "up":
                self._send_all(link)
            elif link.state.phase in ("lost", "refused"):
                return
        self._close_link(link)

    def _close_link(self, link: Link) -> None:
        deadline_s = time.monotonic() + _CLOSE_S / 2
        while link.state.phase == "connecting" and time.monotonic() < deadline_s:
            for message in link.receive(_POLL_S):
                self._on_message(link, message)
        if link.state.phase == "up":
            self._send_all(link)
        link.close(self._bye)

    def _on_message(self, link: Link, message: Message) -> None:
        if isinstance(message, Welcome):
            for each in self._announce():
                link.send(each)
        elif isinstance(message, Command):
            self._on_command(message)
        elif isinstance(message, Heartbeat):
            self._on_viewers(message.peers)
        elif isinstance(message, Refusal):
            self._warn_once(f"the hub refused this run: {message.reason}")

    def _send_all(self, link: Link) -> None:
        while self._queue:
            make = self._queue.popleft()
            try:
                link.send(make())
            except UsageError as error:
                self.failures += 1
                self._warn_once(f"a message could not be sent: {error}")
        while self._scalars:
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

    def _warn_once(self, reason: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "gradscope: no live view of this run: %s. Training continues; the link is retried.",
                reason,
            )


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
