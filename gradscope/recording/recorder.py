"""Writes a recording: a bounded queue, and a thread that commits it to SQLite once per second.

The thread owns the connection. An error in the thread (a full disk, a read-only directory, a file that
is not a recording) ends only the recording: `failure` has the reason, and later messages are counted as
dropped.

If the packed steps take more than 8 MiB, the statistics of further ones are rounded, except the newest (`rounding.py`).
The size of the file is limited: above the limit, every other step of the older half is removed. So a
long run stays recorded over its whole length, with lower resolution for older steps.
"""

import contextlib
import math
import os
import re
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

from gradscope.errors import GradscopeError, ProtocolError, RecordingError
from gradscope.notice import print_notice
from gradscope.paths import recordings_dir
from gradscope.protocol import (
    Environment,
    Event,
    Hello,
    Interventions,
    Manifest,
    Memory,
    Scalars,
    Step,
    Times,
)
from gradscope.recording import tables
from gradscope.recording.chunks import EXACT_BYTES, pack_oldest
from gradscope.recording.disk_space import make_room
from gradscope.recording.git_state import GitReading, start_reading
from gradscope.recording.schema import SUFFIX

__all__ = ["Recorder", "default_path"]

_COMMIT_S = 1.0
_CLOSE_TIMEOUT_S = 10.0
_GIT_AT_CLOSE_S = 1.0
_QUEUE_LIMIT_COUNT = 20_000
_QUEUE_LIMIT_BYTES = 64 * 2**20

_EXACT_VARIABLE = "GRADSCOPE_RECORDINGS_EXACT"
"""If this environment variable is 1, no statistics are rounded."""

Recorded: TypeAlias = Environment | Manifest | Step | Memory | Times | Scalars | Event | Interventions


def default_path(run: str) -> Path:
    """Return the default path for the recording of a run."""
    name = re.sub(r"[^\w.-]", "-", run, flags=re.ASCII).lstrip(".")[:120]
    return recordings_dir() / f"{name or 'run'}{SUFFIX}"


class Recorder:
    """Records one run with all its ranks, until `close`. Owns one thread and one file.

    If a killed hub has left a file of the same run, the file is continued. If `path` contains another
    run with the same name, that file is not changed and the next free path is used
    (`name.2.gradscope`).
    """

    recorded_step: int
    """The newest observed step that is committed: it is in the file, whatever is killed. -1: none yet."""

    def __init__(self, path: Path, hello: Hello, *, limit_bytes: int = 256 * 2**20) -> None:
        self.path = path
        self.failure: str | None = None
        self.recorded_step = -1
        self._hello = hello
        self._limit_bytes = limit_bytes
        self._exact_bytes = math.inf if os.environ.get(_EXACT_VARIABLE, "0") != "0" else EXACT_BYTES
        self._counters: Counter[str] = Counter(
            recorded=0, dropped=0, commits=0, packed=0, thinned=0, retried=0
        )
        self._queue: deque[tables.Row] = deque()
        self._queue_bytes = 0
        self._folders: deque[str] = deque()
        self._git: dict[str, GitReading] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._reason = ""
        self._thread = threading.Thread(target=self._run, name="gradscope-recorder", daemon=True)
        self._thread.start()

    @property
    def counters(self) -> dict[str, int]:
        """The numbers of recorded and dropped messages, commits, thinned rows and retried commits."""
        return dict(self._counters)

    def add(self, message: Recorded | Hello, parts: Sequence[bytes]) -> None:
        """Queue a message. Never blocks and never raises; a message that cannot be queued is counted as dropped.

        `parts` are the bytes of the message as they arrived. A Hello of another rank registers its
        process as part of this run.
        """
        if isinstance(message, Hello):
            row = tables.row_of_process(message)
        else:
            row = tables.row_of(message, parts)
        if isinstance(message, Environment):
            self._folders.append(os.path.dirname(message.script) or message.directory)  # noqa: PTH120 - "" stays ""
        with self._lock:
            is_full = (
                len(self._queue) >= _QUEUE_LIMIT_COUNT
                or self._queue_bytes + row.size_bytes > _QUEUE_LIMIT_BYTES
            )
            if is_full or self.failure is not None or self._stop.is_set():
                self._counters["dropped"] += 1
                return
            self._queue.append(row)
            self._queue_bytes += row.size_bytes

    def close(self, *, reason: str) -> None:
        """Write the queue, mark the run as ended with `reason`, and close the file. Blocks up to 10 s."""
        if not self._stop.is_set():
            self._reason = reason
            self._stop.set()
        self._thread.join(_CLOSE_TIMEOUT_S)
        if self._thread.is_alive() and self.failure is None:
            self.failure = f"{self.path} could not be closed within {_CLOSE_TIMEOUT_S:g} s"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(reason="" if error is None else f"the recorder's owner failed: {error}")

    # All below runs on the recorder's own thread.

    def _run(self) -> None:
        try:
            self.path, connection = tables.open_for_writing(self.path, self._hello)
        except (sqlite3.Error, OSError, RecordingError) as error:
            self._fail(error)
            return
        with contextlib.closing(connection):
            try:
                self._make_room()
                self._record(connection)
                tables.mark_ended(connection, self._reason)
            except (sqlite3.Error, OverflowError, ProtocolError, RecordingError) as error:
                self._fail(error)
                with contextlib.suppress(sqlite3.Error):  # on a full disk one row often still fits
                    tables.mark_ended(connection, f"recording stopped: {error}")
            for reading in self._git.values():
                reading.result(last_wait_s=0)

    def _make_room(self) -> None:
        """Remove the oldest recordings, so that this one can grow to its limit."""
        if self.path.parent != recordings_dir():
            return
        try:
            self._counters["removed"] += len(make_room(self._limit_bytes))
        except (OSError, GradscopeError) as error:
            print_notice(f"gradscope: the size of all recordings was not checked: {error}")

    def _record(self, connection: sqlite3.Connection) -> None:
        """Write the queue to the file every second until `close`, and once after it."""
        is_last = False
        while not is_last:
            is_last = self._stop.wait(_COMMIT_S)
            try:
                self._commit(connection)
                self._read_git(is_last=is_last)  # it may wait, so what was queued is committed first
                self._commit(connection)
                self._pack(connection, is_last=is_last)
                self._limit_size(connection)
            except sqlite3.OperationalError as error:
                is_locked = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if is_last or not is_locked:
                    raise
                self._counters["retried"] += 1

    def _read_git(self, *, is_last: bool) -> None:
        """Ask git for the commits of the scripts' folders, and queue the answers that have come."""
        for folder in {self._folders.popleft() for _ in range(len(self._folders))} - {""}:
            reading = start_reading(folder)
            if reading is not None:
                self._git[folder] = reading
        for folder, reading in list(self._git.items()):
            state = reading.result(last_wait_s=_GIT_AT_CLOSE_S if is_last else None)
            if state is not None:
                del self._git[folder]
                row = tables.row_of_git(folder, state)
                with self._lock:
                    self._queue.append(row)
                    self._queue_bytes += row.size_bytes

    def _commit(self, connection: sqlite3.Connection) -> None:
        """Write the queue in one transaction. Rows leave the queue only after the commit."""
        with self._lock:
            rows = list(self._queue)
        if not rows:
            return
        with connection:
            tables.insert(connection, rows)
        with self._lock:
            for row in rows:
                self._queue.popleft()
                self._queue_bytes -= row.size_bytes
        self._counters["recorded"] += len(rows)
        self._counters["commits"] += 1
        observed = [row.values[0] for row in rows if row.table == "step"]
        self.recorded_step = max([self.recorded_step, *map(int, observed)])  # type: ignore[arg-type]  # step numbers

    def _pack(self, connection: sqlite3.Connection, *, is_last: bool) -> None:
        while moved := pack_oldest(connection, is_last=is_last, exact_bytes=self._exact_bytes):
            self._counters["packed"] += moved

    def _limit_size(self, connection: sqlite3.Connection) -> None:
        while (size := tables.used_bytes(connection)) > self._limit_bytes:
            gone = tables.thin(connection, self._exact_bytes)
            if not gone:
                raise RecordingError(
                    f"{size} bytes remain after thinning, the limit is {self._limit_bytes}"
                )
            self._counters["thinned"] += gone

    def _fail(self, error: Exception) -> None:
        with self._lock:
            self._counters["dropped"] += len(self._queue)
            self._queue.clear()
            self._queue_bytes = 0
            now = time.strftime("%H:%M:%S")
            self.failure = f"recording to {self.path} stopped at {now}: {error}"
