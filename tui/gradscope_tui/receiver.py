"""`Receiver`: the one thread that drains the source, and tells the screen once, however much came.

Born when the app mounts, ended when it unmounts. It gathers for about 40 ms and then tells; while the
screen has not yet looked it is not told again. When the screen falls behind by `_BACKLOG` messages the
thread waits, the source grants no more credit, and the hub sends newer steps and fewer of them.
"""

import threading
import time
from collections import deque
from collections.abc import Callable

from gradscope.errors import GradscopeError, LinkError, NothingToConnectError
from gradscope.protocol import Message
from gradscope_tui.source import Connect, Source

__all__ = ["Receiver"]

_GATHER_S = 0.04
_WAIT_S = 0.25
_RETRY_S = 0.3
_BACKLOG = 2_000


class Receiver:
    """Owns the source. `problem` says in words why there is none yet."""

    def __init__(self, connect: Connect, tell: Callable[[], object]) -> None:
        self.source: Source | None = None
        self.problem = ""
        self._connect = connect
        self._tell = tell
        self._run: str | None = None
        self._waiting: deque[Message] = deque()
        self._is_told = False
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="gradscope-receive", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the source; returns when both are done."""
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()

    def watch(self, run: str) -> None:
        """Choose the run; it is asked for as soon as there is a source."""
        with self._lock:
            self._run = run

    def take(self, most: int) -> list[Message]:
        """Return the oldest messages that wait, at most so many. The next ones are told of again."""
        with self._lock:
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            self._is_told = bool(self._waiting)
        return taken

    @property
    def backlog(self) -> int:
        """How many messages wait."""
        return len(self._waiting)

    def _work(self) -> None:
        while not self._end.is_set():
            try:
                self.source = self._connect()
            except (NothingToConnectError, LinkError) as error:
                self._say(str(error))
                self._end.wait(_RETRY_S)
                continue
            except GradscopeError as error:
                self._say(str(error))
                return
            self._say("")
            try:
                self._drain(self.source)
            except GradscopeError as error:
                self._say(str(error))
            finally:
                self.source.close()
                self.source = None

    def _drain(self, source: Source) -> None:
        watched: str | None = None
        while not self._end.is_set():
            if self._run is not None and self._run != watched:
                watched = self._run
                source.watch(watched)
            if len(self._waiting) >= _BACKLOG:
                self._end.wait(_GATHER_S)
                continue
            messages = source.receive(_WAIT_S if watched else _GATHER_S)  # a choice is near
            until = time.monotonic() + _GATHER_S
            while messages and (left := until - time.monotonic()) > 0 and not self._end.is_set():
                messages.extend(source.receive(left))
            if messages:
                self._hand_over(messages)

    def _hand_over(self, messages: list[Message]) -> None:
        with self._lock:
            self._waiting.extend(messages)
            must_tell, self._is_told = not self._is_told, True
        if must_tell:
            self._tell()

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            self._tell()
