"""Reads recordings, even while they are written, after their writer was killed, and as far as they are sound.

A reader queries a few rows at a time and holds no transaction between queries, so it never blocks the
recorder or the checkpoints of SQLite's write-ahead log.
"""

import contextlib
import difflib
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from gradscope.columns.derived import Floats
from gradscope.errors import ProtocolError, RecordingError, UnknownLayerError, UsageError
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
    unpack_layers,
)
from gradscope.recording.arrow import TableName, arrow_reader
from gradscope.recording.schema import SUFFIX, check_schema
from gradscope.recording.stored_steps import STATISTICS, StoredSteps, is_damage, rows_by_id

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Recording", "RecordingInfo", "list_recordings", "open_recording"]

_LOCK_TIMEOUT_S = 2.0
_START_S = 5.0
"""How long a recorder may take from the creation of the file to its first row, in seconds."""

_POLL_S = 0.02
_ROWS_AT_A_TIME = 64

_Kind = TypeVar(
    "_Kind", bound=Environment | Manifest | Memory | Times | Scalars | Event | Interventions
)


@dataclass(frozen=True, slots=True)
class RecordingInfo:
    """Summary of a recording. `ended_s` is None while the run is recorded, or if the recorder was killed.

    `steps` counts the observed steps, without the `removed` ones, which were removed to keep the file within its size.
    `first_step` and `last_step` include steps with scalars only.
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
    removed: int = 0
    is_pinned: bool = False
    problem: str = ""
    """The reason why the file cannot be read. Only the fields without a default are then known."""


_INFO = "SELECT run, started_s, ended_s, reason, script, host, pid, is_pinned FROM run"


def list_recordings(directory: Path | None = None) -> list[RecordingInfo]:
    """Return the recordings in a directory (default: that of this user), newest first.

    If a file cannot be read, `problem` has the reason. If the directory does not exist, the list is
    empty.
    """
    found = [_info_or_problem(path) for path in (directory or recordings_dir()).glob(f"*{SUFFIX}")]
    return sorted(found, key=lambda info: info.started_s, reverse=True)


def open_recording(path: Path | str) -> "Recording":
    """Open a recording for reading. `path`: a path, or the name of a run, whose newest recording is opened.

    Raises RecordingError if it does not exist or cannot be read. A damaged file is read as far as it is sound.
    """
    run, path = str(path), Path(path)
    if not path.is_file() and path.name == run and not run.endswith(SUFFIX):
        of_run = (info.path for info in list_recordings() if info.run == run and not info.problem)
        path = next(of_run, recordings_dir() / f"{run}{SUFFIX}")
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
    of all ranks are ordered by step. What is damaged is left out; `lost` then says what it was.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lost: dict[str, None] = {}
        self._steps = StoredSteps(connection, self._lost)

    @property
    def lost(self) -> list[str]:
        """What could not be read so far, because the file is damaged: one line each. `check` reads everything."""
        return list(self._lost)

    def check(self) -> list[str]:
        """Read everything, and return what cannot be read: one line each; empty if the file is sound."""
        streams = (self.steps(), self.memory(), self.times(), self.scalars(), self.events())
        for messages in (*streams, self.interventions(), self.manifests()):
            for _ in messages:
                pass
        with contextlib.suppress(RecordingError):
            _ = self.info
        return self.lost

    @property
    def info(self) -> RecordingInfo:
        """The current summary."""
        rows = self._rows(_INFO, "the run's name and times")
        if not rows:
            raise RecordingError(
                f"{self.path} does not contain a run: it was not written by gradscope, or it is damaged"
            )
        numbers = self._steps.numbers()
        spans = self._rows("SELECT min(step), max(last_step) FROM scalars", "the steps of the scalars")
        ends = [*numbers[:1], *numbers[-1:], *(each for each in (*spans, ())[0] if each is not None)]
        run, started_s, ended_s, reason, script, host, pid, is_pinned = rows[0]
        return RecordingInfo(
            path=self.path,
            size_bytes=self.path.stat().st_size,
            run=run,
            started_s=started_s,
            ended_s=ended_s,
            reason=reason,
            script=script,
            host=host,
            pid=pid,
            steps=len(numbers),
            first_step=min(ends, default=None),
            last_step=max(ends, default=None),
            removed=self._steps.removed_count(),
            is_pinned=bool(is_pinned),
        )

    def environment(self, rank: int = 0) -> dict[str, Any]:  # Any: what JSON takes
        """Return what a rank of the run ran with; empty if the recording does not say.

        Keys: host, system, versions, devices, command, script, directory, variables, settings, and git with the
        `commit` of the script's folder and `is_dirty`: whether a tracked file differs from it; None: not known.
        """
        found = self._messages("environment", Environment, f"rank = {int(rank)}", "rank")
        for message in found:
            return self._environment(message)
        return {}

    def _environment(self, found: Environment) -> dict[str, Any]:  # Any: what JSON takes
        document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(found))
        folder = os.path.dirname(found.script) or found.directory  # noqa: PTH120 - "" stays ""
        query = "SELECT commit_id, is_dirty FROM git WHERE folder = ?"
        commit, is_dirty = (*self._rows(query, "the git commit", folder), (None, None))[0]
        left_out = {"t", "run", "rank"}
        return {name: value for name, value in document.items() if name not in left_out} | {
            "git": {"commit": commit, "is_dirty": None if is_dirty is None else bool(is_dirty)}
        }

    def manifest(self) -> Manifest | None:
        """Return the newest manifest of the lowest rank; None if there is none yet."""
        found = self.manifests()
        lowest = min((each.rank for each in found), default=0)
        return next((each for each in reversed(found) if each.rank == lowest), None)

    def manifests(self) -> list[Manifest]:
        """Return all manifests, of each rank the newest one last."""
        found = self._messages("manifest", Manifest, "TRUE", "rank, revision")
        return sorted(found, key=lambda each: (each.rank, each.revision))

    def step_numbers(self) -> list[int]:
        """Return the numbers of the observed steps, in order."""
        return self._steps.numbers()

    def rounded_step_numbers(self) -> list[int]:
        """Return the numbers of the observed steps whose statistics are rounded, in order.

        Of these, the norm, rms, deviation, minimum and maximum are within 2^-9 (0.2 %) of what was measured, and the
        mean within 2^-9 of a deviation. All counts, and the elements that are not finite, are exact.
        """
        return self._steps.rounded()

    def steps_near(self, step: int | None, count: int) -> list[Step]:
        """Return the observed step nearest to `step` (None: the newest) and those before it, `count` in all.

        One message for each rank, in the order of steps.
        """
        numbers = self.step_numbers()
        if not numbers or count < 1:
            return []
        last = len(numbers) - 1
        if step is not None:
            last = min(range(len(numbers)), key=lambda place: abs(numbers[place] - step))
        first = max(0, last + 1 - count)
        return self._steps.between(numbers[first], numbers[last])

    def steps_between(self, first: int, last: int) -> list[Step]:
        """Return the observed steps from `first` to `last`, both included, in the order of steps and ranks."""
        return self._steps.between(first, last)

    def steps(self) -> Iterator[Step]:
        """Yield the observed steps; one message for each rank."""
        return self._steps.all()

    def series(
        self,
        layer: str,
        kind: str,
        statistic: str,
        start: int | None = None,
        stop: int | None = None,
        *,
        rank: int = 0,
    ) -> tuple[NDArray[np.int64], Floats]:
        """Return the observed steps in which a layer has a row of a kind, and one statistic of it.

        statistic: a column such as "sum" or "max", or mean, std, rms, norm, absmax, finite, nonfinite.
        start, stop: the first step, and the first one after the last. Default: all.

        NaN: not measured. Reads only the columns that the statistic needs. Raises UnknownLayerError for a layer that no
        manifest of the rank has, and UsageError for an unknown statistic.
        """
        if statistic not in STATISTICS:
            raise UsageError(f"unknown statistic {statistic!r}; expected one of {STATISTICS}")
        places: dict[int, int] = {}
        names: dict[str, None] = {}
        for manifest in self.manifests():
            if manifest.rank == rank:
                layers = [each.name for each in unpack_layers(manifest)]
                names.update(dict.fromkeys(layers))
                if layer in layers:
                    places[manifest.revision] = layers.index(layer)
        if not places:
            near = ", ".join(difflib.get_close_matches(layer, names)) or "none"
            raise UnknownLayerError(
                f"no layer {layer!r} in the recording of rank {rank}; nearest: {near}"
            )
        first, last = start or 0, (2**63 if stop is None else stop) - 1
        return self._steps.series(places, kind, statistic, rank=rank, first=first, last=last)

    def layers_by_manifest(self) -> dict[tuple[int, int], tuple[str, ...]]:
        """Return the names of the layers by rank and revision of the manifest, as steps refer to them."""
        return {
            (each.rank, each.revision): tuple(layer.name for layer in unpack_layers(each))
            for each in self.manifests()
        }

    def to_arrow(self, table: TableName = "statistics") -> "pyarrow.RecordBatchReader":
        """Return a table as a reader of Arrow batches, while the recording is open. Needs pyarrow.

        "statistics": a row for each observed step, rank, layer and kind; null: not measured. "scalars": a row for each
        step, rank and name. `to_arrow().read_all().to_pandas()` gives a data frame. Raises UsageError without
        pyarrow.
        """
        return arrow_reader(self, table)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the statistics as Arrow's PyCapsule, so that `polars.DataFrame(recording)` reads them."""
        stream: object = self.to_arrow().__arrow_c_stream__(requested_schema)
        return stream

    def scalar_names(self) -> list[str]:
        """Return the names of the recorded scalars, such as "loss"."""
        return list(dict.fromkeys(name for message in self.scalars() for name in message.values))

    def scalar_series(
        self, name: str, start: int | None = None, stop: int | None = None, *, rank: int = 0
    ) -> tuple[NDArray[np.int64], Floats]:
        """Return the steps with a value of a scalar, and the values; of a step that has several, the last one."""
        first, last = start or 0, 2**63 if stop is None else stop
        found = {
            step: value
            for message in self.scalars()
            if message.rank == rank and name in message.values
            for step, value in zip(message.steps, message.values[name], strict=False)
            if value is not None and first <= step < last
        }
        steps = sorted(found)
        return np.array(steps, np.int64), np.array([found[step] for step in steps], np.float64)

    def memory(self) -> Iterator[Memory]:
        """Yield the memory readings."""
        return self._stream("memory", Memory)

    def times(self) -> Iterator[Times]:
        """Yield the time readings."""
        return self._stream("times", Times)

    def scalars(self) -> Iterator[Scalars]:
        """Yield the scalars as they were sent, several steps in one message."""
        return self._stream("scalars", Scalars)

    def events(self) -> Iterator[Event]:
        """Yield the events."""
        return self._stream("event", Event)

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

    def has_process(self, rank: int, pid: int, started_s: float) -> bool:
        """Return whether this process, which began at a Unix time, belongs to the run."""
        query = "SELECT count(*) FROM process WHERE rank = ? AND pid = ? AND started_s = ?"
        return bool(self._connection.execute(query, (rank, pid, started_s)).fetchone()[0])

    def interventions(self) -> Iterator[Interventions]:
        """Yield the interventions, one message for each change."""
        return self._stream("interventions", Interventions)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _stream(self, table: str, kind: type[_Kind]) -> Iterator[_Kind]:
        """Yield the messages of a table by step; also new ones that are recorded meanwhile."""
        after = (-(2**63), 0)
        while True:
            where = f"(step, id) > ({after[0]}, {after[1]})"
            rows = self._message_rows(table, where, "step, id", _ROWS_AT_A_TIME)
            for _, row_id, *parts in rows:
                message = self._decode(kind, row_id, *parts)
                if message is not None:
                    yield message
            if len(rows) == 0:
                return
            after = rows[-1][0], rows[-1][1]

    def _messages(self, table: str, kind: type[_Kind], where: str, order: str) -> list[_Kind]:
        found = [self._decode(kind, *row[1:]) for row in self._message_rows(table, where, order, -1)]
        return [message for message in found if message is not None]

    def _message_rows(self, table: str, where: str, order: str, limit: int) -> list[Any]:
        """Return step or rank, id, head, body and CRC of rows; of a damaged table as many as can be read."""
        columns = f"{order.partition(',')[0]}, id, head, body, crc"
        query = f"SELECT {columns} FROM {table} WHERE {where} ORDER BY {order} LIMIT {limit}"  # noqa: S608 - ours
        try:
            return self._connection.execute(query).fetchall()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise _unreadable(self.path, error) from error
            self._lost[f"a part of the table {table}: {error}"] = None
        found = rows_by_id(self._connection, table, columns, where)
        return sorted(found, key=lambda row: row[:2])[: limit if limit > 0 else None]

    def _rows(self, query: str, what: str, *arguments: str) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(query, arguments).fetchall()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise _unreadable(self.path, error) from error
            self._lost[f"{what}: {error}"] = None
            return []

    def _decode(
        self, kind: type[_Kind], row_id: int, head: bytes, body: bytes, crc: int
    ) -> _Kind | None:
        """Return the message of a row; None if it is damaged."""
        pieces = [body[i : i + PART_LIMIT_BYTES] for i in range(0, len(body), PART_LIMIT_BYTES)]
        what = f"{kind.__name__} {row_id}"
        try:
            message = decode([head, *pieces])
        except ProtocolError as error:
            self._lost[f"{what}: {error}"] = None
            return None
        if zlib.crc32(body, zlib.crc32(head)) != crc or not isinstance(message, kind):
            self._lost[f"{what}: its bytes have changed"] = None
            return None
        return message


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file for reading only.

    A reader of a WAL file creates a small file next to it. If that is not allowed (a read-only
    directory) and there is no journal, the file cannot change, and it is opened as immutable.
    """
    where = path.absolute().as_uri()
    connection = sqlite3.connect(
        f"{where}?mode=ro", uri=True, timeout=_LOCK_TIMEOUT_S, isolation_level=None
    )
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        journal = path.with_name(path.name + "-wal")
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CANTOPEN or journal.exists():
            connection.close()
            raise
        connection.close()
        return sqlite3.connect(f"{where}?mode=ro&immutable=1", uri=True, isolation_level=None)
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
