"""Reads recordings, even while they are written, and after their writer was killed.

A reader queries a few rows at a time and holds no transaction between queries, so it never blocks the
recorder or the checkpoints of SQLite's write-ahead log.
"""

import contextlib
import difflib
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias, TypeVar

import msgspec

from gradscope.errors import ProtocolError, RecordingError
from gradscope.findings import Finding
from gradscope.paths import recordings_dir
from gradscope.protocol import (
    PART_LIMIT_BYTES,
    Environment,
    Event,
    Interventions,
    Manifest,
    Memory,
    Scalars,
    Step,
    Times,
    decode,
)
from gradscope.recording.schema import SUFFIX, check_schema

__all__ = ["Recording", "RecordingInfo", "list_recordings", "open_recording"]

_LOCK_TIMEOUT_S = 2.0
_START_S = 5.0
"""How long a recorder may take from the creation of the file to its first row, in seconds."""

_POLL_S = 0.02
_ROWS_AT_A_TIME = 64

_Kind = TypeVar(
    "_Kind", bound=Environment | Manifest | Step | Memory | Times | Scalars | Event | Interventions
)
_Row: TypeAlias = tuple[int, int, bytes, bytes]


@dataclass(frozen=True, slots=True)
class RecordingInfo:
    """Summary of a recording. `ended_s` is None while the run is recorded, or if the recorder was killed.

    `steps` counts the observed steps. `first_step` and `last_step` include steps with scalars only.
    """

    path: Path
    size_bytes: int
    run: str
    started_s: float = 0.0
    ended_s: float | None = None
    reason: str = ""
    script: str = ""
    host: str = ""
    pid: int = 0
    steps: int = 0
    first_step: int | None = None
    last_step: int | None = None
    problem: str = ""
    """The reason why the file cannot be read. Only the fields without a default are then known."""


_INFO = """
SELECT run, started_s, ended_s, reason, script, host, pid, steps, first_step, last_step
FROM run, (SELECT count(DISTINCT step) AS steps FROM step), (
    SELECT min(first) AS first_step, max(last) AS last_step FROM (
        SELECT min(step) AS first, max(step) AS last FROM step
        UNION ALL SELECT min(step), max(last_step) FROM scalars
    )
)
"""


_NEAR = """
SELECT step, id, head, body FROM step WHERE step IN (
    SELECT DISTINCT step FROM step WHERE step <= (
        SELECT step FROM step ORDER BY CASE WHEN ?2 THEN -step ELSE abs(step - ?1) END LIMIT 1
    ) ORDER BY step DESC LIMIT ?3
) ORDER BY step, id
"""


def list_recordings(directory: Path | None = None) -> list[RecordingInfo]:
    """Return the recordings in a directory (default: that of this user), newest first.

    If a file cannot be read, `problem` has the reason. If the directory does not exist, the list is
    empty.
    """
    found = [_info_or_problem(path) for path in (directory or recordings_dir()).glob(f"*{SUFFIX}")]
    return sorted(found, key=lambda info: info.started_s, reverse=True)


def open_recording(path: Path | str) -> "Recording":
    """Open a recording for reading. Raises RecordingError if it does not exist or cannot be read."""
    path = Path(path)
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob(f"*{SUFFIX}")])
        hint = f"; near it: {', '.join(near)}" if near else ""
        raise RecordingError(f"there is no recording {path}{hint}; `gradscope ls` lists them")
    with contextlib.ExitStack() as opened:
        try:
            connection = opened.enter_context(contextlib.closing(_connect(path)))
            deadline_s = time.monotonic() + _START_S - (time.time() - path.stat().st_mtime)
            while not (has_run := check_schema(connection, path)) and time.monotonic() < deadline_s:
                time.sleep(_POLL_S)  # the recorder has created the file just now
        except sqlite3.Error as error:
            raise _unreadable(path, error) from error
        if not has_run:
            raise RecordingError(f"{path} is empty: its run was killed before it was recorded")
        opened.pop_all()
        return Recording(path, connection)


class Recording:
    """One recording, opened for reading. Call `close`, or use it as a context manager.

    Each method reads the file in its current state; for a live run, later calls return more. Messages
    of all ranks are ordered by step. Raises RecordingError if the file is damaged.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @property
    def info(self) -> RecordingInfo:
        """The current summary."""
        try:
            row = self._connection.execute(_INFO).fetchone()
        except sqlite3.Error as error:
            raise _unreadable(self.path, error) from error
        if row is None:
            raise RecordingError(f"{self.path} does not contain a run: it was not written by gradscope")
        return RecordingInfo(self.path, self.path.stat().st_size, *row)

    def environment(self, rank: int = 0) -> dict[str, Any]:  # Any: what JSON takes
        """Return what a rank of the run ran with; empty if the recording does not say.

        Keys: host, system, versions, devices, command, script, directory, variables, settings, and git with the
        `commit` of the script's folder and `is_dirty`: whether a tracked file differs from it; None: not known.
        """
        if not self._has("environment"):
            return {}
        rows = self._rows("SELECT 0, id, head, body FROM environment WHERE rank = ?", (rank,))
        if not rows:
            return {}
        found = self._decode(rows[0], Environment)
        document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found))
        folder = os.path.dirname(found.script) or found.directory  # noqa: PTH120 - "" stays ""
        git = self._rows("SELECT 0, 0, commit_id, is_dirty FROM git WHERE folder = ?", (folder,))
        commit, is_dirty = git[0][2:] if git else (None, None)
        left_out = {"t", "run", "rank"}
        return {name: value for name, value in document.items() if name not in left_out} | {
            "git": {"commit": commit, "is_dirty": None if is_dirty is None else bool(is_dirty)}
        }

    def manifest(self) -> Manifest | None:
        """Return the newest manifest of the lowest rank; None if there is none yet."""
        rows = self._rows(
            "SELECT revision, id, head, body FROM manifest ORDER BY rank, revision DESC LIMIT 1"
        )
        return self._decode(rows[0], Manifest) if rows else None

    def manifests(self) -> list[Manifest]:
        """Return all manifests, of each rank the newest one last."""
        query = "SELECT revision, id, head, body FROM manifest ORDER BY rank, revision"
        return [self._decode(row, Manifest) for row in self._rows(query)]

    def step_numbers(self) -> list[int]:
        """Return the numbers of the observed steps, in order."""
        query = "SELECT DISTINCT step, 0, x'', x'' FROM step ORDER BY step"
        return [row[0] for row in self._rows(query)]

    def steps_near(self, step: int | None, count: int) -> list[Step]:
        """Return the observed step nearest to `step` (None: the newest) and those before it, `count` in all.

        One message for each rank, in the order of steps.
        """
        return [self._decode(row, Step) for row in self._rows(_NEAR, (step or 0, step is None, count))]

    def steps(self) -> Iterator[Step]:
        """Yield the observed steps; one message for each rank."""
        return self._messages("step", Step)

    def memory(self) -> Iterator[Memory]:
        """Yield the memory readings."""
        return self._messages("memory", Memory)

    def times(self) -> Iterator[Times]:
        """Yield the time readings."""
        return self._messages("times", Times)

    def scalars(self) -> Iterator[Scalars]:
        """Yield the scalars as they were sent, several steps in one message."""
        return self._messages("scalars", Scalars)

    def events(self) -> Iterator[Event]:
        """Yield the events."""
        return self._messages("event", Event)

    def findings(self) -> list[Finding]:
        """Return the findings, the first found first; of one that was reported again, the newest."""
        found: dict[tuple[str, tuple[str, ...], int | None], Finding] = {}
        for event in self.events():
            if event.finding is not None:
                found[event.finding.code, event.finding.layers, event.finding.found_step] = (
                    event.finding
                )
        return list(found.values())

    def intervention_changes(self) -> list[Event]:
        """Return the events that say who changed which intervention, when, and from which step on.

        `change` of an event has the parts; it is None in a recording of an earlier version.
        """
        return [event for event in self.events() if event.code.startswith("intervention.")]

    def interventions(self) -> Iterator[Interventions]:
        """Yield the interventions, one message for each change."""
        return self._messages("interventions", Interventions)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _messages(self, table: str, kind: type[_Kind]) -> Iterator[_Kind]:
        if not self._has(table):
            return
        after: tuple[int, int] = (-(2**63), 0)
        while True:
            rows = self._rows(
                f"SELECT step, id, head, body FROM {table} WHERE (step, id) > (?, ?) "  # noqa: S608 - ours
                f"ORDER BY step, id LIMIT {_ROWS_AT_A_TIME}",
                after,
            )
            if not rows:
                return
            for row in rows:
                yield self._decode(row, kind)
            after = rows[-1][0], rows[-1][1]

    def _has(self, table: str) -> bool:
        """Return whether the file has a table; recordings of earlier versions lack some tables."""
        query = f"SELECT 0, 0, name, name FROM sqlite_master WHERE name = '{table}'"  # noqa: S608 - ours
        return bool(self._rows(query))

    def _rows(self, query: str, arguments: tuple[int | str, ...] = ()) -> list[_Row]:
        try:
            return self._connection.execute(query, arguments).fetchall()
        except sqlite3.Error as error:
            raise _unreadable(self.path, error) from error

    def _decode(self, row: _Row, kind: type[_Kind]) -> _Kind:
        _, row_id, head, body = row
        pieces = [body[i : i + PART_LIMIT_BYTES] for i in range(0, len(body), PART_LIMIT_BYTES)]
        try:
            message = decode([head, *pieces])
        except ProtocolError as error:
            raise RecordingError(
                f"{self.path}, {kind.__name__} {row_id} is damaged: {error}"
            ) from error
        if not isinstance(message, kind):
            raise RecordingError(
                f"{self.path} is damaged: expected {kind.__name__} in row {row_id}, "
                f"got {type(message).__name__}"
            )
        return message


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file for reading only.

    A reader of a WAL file creates a small file next to it. If that is not allowed (a read-only
    directory) and there is no journal, the file cannot change, and it is opened as immutable.
    """
    where = path.absolute().as_uri()
    connection = sqlite3.connect(f"{where}?mode=ro", uri=True, timeout=_LOCK_TIMEOUT_S)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        journal = path.with_name(path.name + "-wal")
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CANTOPEN or journal.exists():
            connection.close()
            raise
        connection.close()
        return sqlite3.connect(f"{where}?mode=ro&immutable=1", uri=True)
    except sqlite3.DatabaseError:
        return connection  # not a database: check_schema reports it
    return connection


def _info_or_problem(path: Path) -> RecordingInfo:
    try:
        with open_recording(path) as recording:
            return recording.info
    except RecordingError as error:
        size_bytes = path.stat().st_size if path.exists() else 0
        return RecordingInfo(path, size_bytes, path.stem, problem=str(error))


def _unreadable(path: Path, error: sqlite3.Error) -> RecordingError:
    return RecordingError(
        f"{path} cannot be read ({error}); if it was copied while its run was live, copy it again "
        "together with the file of the same name that ends in -wal"
    )
