"""The publisher: the one thread that owns the link. The training thread only lays things on queues.

It starts or joins the hub, sends what lies on the queues, hands commands to `on_command`, and tells the
hub anew who we are whenever it is a new one. When there is no link the queues stay bounded: the oldest
is dropped and counted.
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable

from gradscope.errors import GradscopeError, UsageError
from gradscope.protocol import Command, Heartbeat, Hello, Message, Refusal, Scalars, Welcome
from gradscope.transport import HubAddress, Link, ensure_hub

__all__ = ["Publisher"]

_log = logging.getLogger("gradscope")

_QUEUE_LIMIT = 256
_QUEUE_LIMIT_BYTES = 16_000_000
_SCALARS_LIMIT = 10_000
_SCALARS_A_MESSAGE = 500
_POLL_S = 0.05
_RETRY_FIRST_S = 0.5
_RETRY_LAST_S = 30.0
_GOODBYE_S = 1.0

_Make = Callable[[], Message]
_Row = tuple[int, float, dict[str, float]]


class Publisher:
    """Sends to the hub from a thread of its own, from `start` to `stop`.

    `announce()` gives the messages that a new hub must know first: manifest and interventions.
    """

    def __init__(
        self,
        endpoint: str | None,
        hello: Hello,
        *,
        announce: Callable[[], list[Message]],
        on_command: Callable[[Command], None],
        on_viewers: Callable[[tuple[str, ...]], None],
    ) -> None:
        self._endpoint = endpoint
        self._hello = hello
        self._announce = announce
        self._on_command = on_command
        self._on_viewers = on_viewers
        self._queue: deque[_Make] = deque()
        self._scalars: deque[_Row] = deque(maxlen=_SCALARS_LIMIT)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None
        self._link: Link | None = None
        self._pid = os.getpid()
        self._has_warned = False
        self.dropped = 0
        self.failures = 0
        self.address: HubAddress | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="gradscope-publisher", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Send what is left, say goodbye, and end the thread: at most a second."""
        if os.getpid() != self._pid or self._thread is None:
            return
        self._stopping.set()
        self._wake()
        if self._thread is not threading.current_thread():  # a collected model ends its scope anywhere
            self._thread.join(_GOODBYE_S + 0.5)
        self._thread = None

    def put(self, make: _Make, size_bytes: int = 0) -> None:
        """Lay a message on the queue; it is made by the thread. Never waits.

        size_bytes: what it holds in memory until it is made, where that is much. So many of this size
        wait as fit into the queue's bytes, two at the least.
        """
        limit = _QUEUE_LIMIT
        if size_bytes:
            limit = min(limit, max(2, _QUEUE_LIMIT_BYTES // size_bytes))
        while len(self._queue) >= limit:
            self._drop_oldest()
        self._queue.append(make)

    def put_now(self, make: _Make) -> None:
        """Lay a message on the queue, and wake the thread."""
        self.put(make)
        self._wake()

    def put_scalars(self, step: int, time_s: float, values: dict[str, float]) -> None:
        """Lay a step's scalars on their queue; several steps travel together."""
        self._scalars.append((step, time_s, values))

    def counters(self) -> dict[str, int]:
        """Return what was sent, dropped and failed."""
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
        while not self._stopping.is_set():
            try:
                self.address = ensure_hub(self._endpoint)
                with Link(self.address.agents, self._hello) as self._link:
                    retry_s = _RETRY_FIRST_S
                    self._serve(self._link)
            except (GradscopeError, OSError) as error:
                self._warn_once(str(error))
            except Exception as error:  # noqa: BLE001 - counted and told; the next try may succeed
                self.failures += 1
                self._warn_once(f"the link failed: {type(error).__name__}: {error}")
            finally:
                self._link = None
            self._stopping.wait(retry_s)
            retry_s = min(2 * retry_s, _RETRY_LAST_S)

    def _serve(self, link: Link) -> None:
        """Send and receive until we stop, or the link has been lost and another hub is needed."""
        while not self._stopping.is_set():
            for message in link.receive(_POLL_S):
                self._on_message(link, message)
            if link.state.phase == "up":
                self._send_all(link)
            elif link.state.phase in ("lost", "refused"):
                return
        self._say_goodbye(link)

    def _say_goodbye(self, link: Link) -> None:
        deadline_s = time.monotonic() + _GOODBYE_S / 2
        while link.state.phase == "connecting" and time.monotonic() < deadline_s:
            for message in link.receive(_POLL_S):
                self._on_message(link, message)
        if link.state.phase == "up":
            self._send_all(link)
        link.close("detached")

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
                "gradscope: no live view of this run: %s. Training goes on; the link is tried again.",
                reason,
            )
