"""`StoredSteps`: reads the observed steps of a recording, from its chunks and from the rows of the newest steps.

Damage does not end the reading: what cannot be read is left out, and `lost` says what it was.
"""

import contextlib
import sqlite3
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from gradscope.columns import COLUMN_NAMES, Flags, derive_from
from gradscope.columns.derived import DERIVATIONS, Floats
from gradscope.errors import GradscopeError, ProtocolError, RecordingError
from gradscope.protocol import Step, decode
from gradscope.recording.chunk_codec import (
    ROUNDED,
    Entry,
    PackedColumn,
    decode_heads,
    form_of,
    join_bodies,
    places_by_form,
    split_body,
    unpack_column,
    unpack_form,
)
from gradscope.recording.rounding import FLOATS

__all__ = ["STATISTICS", "ChunkColumns", "StoredSteps", "entry_of", "is_damage", "rows_by_id"]

STATISTICS: Final = (*COLUMN_NAMES, *DERIVATIONS)
"""The columns, and what is derived from them."""

_ROWS_AT_A_TIME: Final = 64
_MISSING_LIMIT: Final = 10_000
_LAST: Final = 2**63 - 1
_STEPS = msgspec.msgpack.Decoder(list[int])
_PASSING_ERRORS: Final = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
)

_Rows: TypeAlias = list[tuple[Any, ...]]  # Any: of a query
_RowArrays: TypeAlias = list[NDArray[np.generic] | None]
"""The numbers of one column, one array for each step; None: it was not measured."""


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error is one of the file, not of its use at this moment."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)  # Python's own errors have none
    return code & 0xFF not in _PASSING_ERRORS


def rows_by_id(connection: sqlite3.Connection, table: str, columns: str, where: str) -> _Rows:
    """Return the rows of a damaged table that can be read, one query for each id."""
    query = f"SELECT {columns} FROM {table} WHERE id = ? AND {where}"  # noqa: S608 - names and numbers of ours
    found: _Rows = []
    row_id = last_found = 0
    while row_id - last_found < _MISSING_LIMIT:
        row_id += 1
        with contextlib.suppress(sqlite3.DatabaseError):
            rows = connection.execute(query, (row_id,)).fetchall()
            if rows:
                last_found = row_id
                found += rows
    return found


@dataclass(frozen=True, slots=True)
class _Chunk:
    id: int
    first: int
    last: int

    @property
    def text(self) -> str:
        return f"the observed steps from {self.first} to {self.last}"


class StoredSteps:
    """The observed steps of one recording. `lost` has what could not be read so far."""

    def __init__(self, connection: sqlite3.Connection, lost: dict[str, None]) -> None:
        self._connection = connection
        self._read: dict[int, list[Entry]] = {}
        self.lost = lost

    def numbers(self) -> list[int]:
        """Return the numbers of the observed steps, in order."""
        with self._one_state():
            found = {step for (step,) in self._rows("step", "step")}
            for steps, first, last in self._rows("chunk", "steps, first_step, last_step"):
                with self._losing(_Chunk(0, first, last).text):
                    found.update(_STEPS.decode(steps))
        return sorted(found)

    def removed_count(self) -> int:
        """Return how many observed steps were removed to keep the recording within its size."""
        return sum(removed for (removed,) in self._rows("chunk", "removed"))

    def rounded(self) -> list[int]:
        """Return the numbers of the observed steps whose statistics are rounded, in order."""
        found: set[int] = set()
        query = "SELECT chunk.id, first_step, last_step FROM chunk JOIN chunk_column ON chunk = chunk.id WHERE name = ?"
        with self._one_state():
            try:
                chunks = [_Chunk(*row) for row in self._connection.execute(query, (ROUNDED,))]
            except sqlite3.DatabaseError as error:
                if not is_damage(error):
                    raise
                self._lose("which steps are rounded", error)
                chunks = []
            for chunk in chunks:
                with self._losing(chunk.text):
                    found.update(ChunkColumns(self._connection, chunk.id).rounded())
            again = {
                step for (step,) in self._rows("step", "step")
            }  # sent again, and not in a chunk yet
        return sorted(found - again)

    def all(self) -> Iterator[Step]:
        """Yield the observed steps in order; also new ones that are recorded meanwhile."""
        position = -1
        while (window := self._next_window(position)) is not None:
            yield from self.between(*window)
            position = window[1]

    def between(self, first: int, last: int) -> list[Step]:
        """Return the observed steps from `first` to `last`, both included, in the order of steps and ranks."""
        found: dict[tuple[int, int], Step] = {}
        with self._one_state():
            for chunk in self._chunks(first, last):
                for entry in self._entries(chunk):
                    if first <= entry.step.step <= last:
                        found[entry.step.step, entry.step.rank] = _message(entry)
            for entry in self._newest(first, last):
                found[entry.step.step, entry.step.rank] = _message(entry)
        return [found[place] for place in sorted(found)]

    def series(
        self, layers: Mapping[int, int], kind: str, statistic: str, *, rank: int, first: int, last: int
    ) -> tuple[NDArray[np.int64], Floats]:
        """Return the steps that have a row, and one statistic of it; NaN: not measured.

        layers: the index of the layer for each revision of the manifest. Only the columns that the statistic needs
            are read.
        """
        wanted = layers, kind, statistic, rank
        found: dict[int, float] = {}
        with self._one_state():
            for chunk in self._chunks(first, last):
                with self._losing(chunk.text):
                    found.update(_values(ChunkColumns(self._connection, chunk.id), *wanted))
            for entry in self._newest(first, last):
                found.update(_values(_BodyColumns(entry), *wanted))
        steps = [step for step in sorted(found) if first <= step <= last]
        return np.array(steps, np.int64), np.array([found[step] for step in steps], np.float64)

    def _next_window(self, position: int) -> tuple[int, int] | None:
        """Return the first and the last of the next steps after `position` that are read together."""
        with self._one_state():
            fresh = self._rows("step", "step", position + 1, limit=_ROWS_AT_A_TIME)
            chunks = self._chunks(position + 1, _LAST)
        chunk = min(chunks, key=lambda each: (each.first, each.last), default=None)
        if not fresh:
            return None if chunk is None else (max(chunk.first, position + 1), chunk.last)
        first, last = fresh[0][0], fresh[-1][0]
        if chunk is None:
            return first, last
        if first < chunk.first:
            return first, min(last, chunk.first - 1)
        return max(chunk.first, position + 1), chunk.last

    def _chunks(self, first: int, last: int) -> list[_Chunk]:
        found = [_Chunk(*row) for row in self._rows("chunk", "id, first_step, last_step")]
        return [chunk for chunk in found if chunk.first <= last and chunk.last >= first]

    def _newest(self, first: int, last: int) -> list[Entry]:
        """Return the entries that are not in a chunk yet."""
        found = []
        for row, head, body, crc in self._rows("step", "id, head, body, crc", first, last):
            with self._losing(f"row {row} of the observed steps"):
                found.append(entry_of(head, body, crc))
        return found

    def _entries(self, chunk: _Chunk) -> list[Entry]:
        """Return the steps of a chunk; none if it is damaged. Keeps the two chunks that were read last."""
        if chunk.id not in self._read:
            entries: list[Entry] = []
            with self._losing(chunk.text):
                entries = ChunkColumns(self._connection, chunk.id).entries()
            while len(self._read) > 1:
                del self._read[next(iter(self._read))]
            self._read[chunk.id] = entries
        return self._read[chunk.id]

    def _rows(
        self, table: str, columns: str, first: int | None = None, last: int = _LAST, *, limit: int = -1
    ) -> _Rows:
        where = "TRUE" if first is None else f"step BETWEEN {first} AND {last}"
        order = "" if first is None else "ORDER BY step, id"
        query = f"SELECT {columns} FROM {table} WHERE {where} {order} LIMIT {limit}"  # noqa: S608 - ours
        try:
            return self._connection.execute(query).fetchall()
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._lose(f"a part of the table {table}", error)
        found = rows_by_id(
            self._connection, table, f"{'id' if first is None else 'step'}, {columns}", where
        )
        return [row[1:] for row in sorted(found, key=lambda row: row[0])][
            : limit if limit > 0 else None
        ]

    @contextlib.contextmanager
    def _one_state(self) -> Iterator[None]:
        """Let all queries inside read the same state of the file, while the recorder moves steps into chunks."""
        self._connection.execute("BEGIN")
        try:
            yield
        finally:
            with contextlib.suppress(sqlite3.DatabaseError):  # of a damaged file; nothing was changed
                self._connection.execute("ROLLBACK")

    @contextlib.contextmanager
    def _losing(self, what: str) -> Iterator[None]:
        """If the reading inside fails because of damage, note what is lost."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if not is_damage(error):
                raise
            self._lose(what, error)
        except (GradscopeError, msgspec.MsgspecError, ValueError, TypeError) as error:
            self._lose(what, error)

    def _lose(self, what: str, error: Exception) -> None:
        self.lost[f"{what}: {error}"] = None


class ChunkColumns:
    """The columns of a chunk; each is read when it is needed first."""

    def __init__(self, connection: sqlite3.Connection, chunk: int) -> None:
        self._connection = connection
        self._chunk = chunk
        row = connection.execute("SELECT heads FROM chunk WHERE id = ?", (chunk,)).fetchone()
        self.heads, self.steps = decode_heads(row[0])
        self._arrays: dict[str, _RowArrays] = {}
        self._rounded: list[list[int]] | None = None

    def arrays(self, name: str) -> _RowArrays:
        """Return the numbers of a column, one array for each step."""
        if name not in self._arrays:
            self._arrays[name] = self._read(name, slice(None))
        return self._arrays[name]

    def numbers(self, name: str, rows: Mapping[int, int]) -> Floats:
        """Return one number of a column for each place of a step. rows: the row by place. NaN: not measured."""
        first = min(rows.values(), default=0)
        if any(row != first for row in rows.values()):
            return _numbers(self.arrays(name), rows)
        found = self._read(name, slice(first, first + 1))  # a small part of the work
        return _numbers(found, dict.fromkeys(rows, 0))

    def _read(self, name: str, rows: slice) -> _RowArrays:
        found = [_zeros(step, name) for step in self.steps]
        forms = self._forms() if name in FLOATS else []
        rounded = {place for places in forms for place in places}
        for column in self._packed(name):
            key = column.name, column.dtype
            having = [
                place
                for place, step in enumerate(self.steps)
                if key in step.columns and step.rows == column.rows and place not in rounded
            ]
            for place, array in zip(having, unpack_column(column, len(having), rows), strict=True):
                found[place] = array
        for number, places in enumerate(forms):
            if name not in self.steps[places[0]].zero:
                for place, array in zip(
                    places, self._unpack_form(number, places, name, rows), strict=True
                ):
                    found[place] = array
        return found

    def _forms(self) -> list[list[int]]:
        if self._rounded is None:
            self._rounded = places_by_form(next(self._packed(ROUNDED), None), len(self.steps))
        return self._rounded

    def _unpack_form(
        self, number: int, places: list[int], name: str, rows: slice
    ) -> NDArray[np.generic]:
        layer, kind, count = (
            [array for array in self.arrays(each) if array is not None]  # of all steps: always sent
            for each in ("layer", "kind", "count")
        )
        form = form_of(self.steps[places[0]], layer[places[0]], kind[places[0]])
        counts = np.stack([count[place] for place in places])
        row = None if rows.start is None else rows.start
        return unpack_form(number, (name,), form, counts, self._part, row)[name]

    def _part(self, name: str) -> PackedColumn:
        for column in self._packed(name):
            return column
        raise ProtocolError(f"a chunk lacks the column {name!r}")

    def rounded(self) -> set[int]:
        """Return the numbers of the steps whose statistics are rounded."""
        return {self.steps[place].step for places in self._forms() for place in places}

    def entries(self) -> list[Entry]:
        """Return all steps, as they were recorded."""
        bodies = join_bodies(self.steps, self._packed())
        return [Entry(*each) for each in zip(self.steps, self.heads, bodies, strict=True)]

    def _packed(self, name: str | None = None) -> Iterator[PackedColumn]:
        query = "SELECT name, dtype, rows, data FROM chunk_column WHERE chunk = ?1 AND name = ifnull(?2, name)"
        rows = self._connection.execute(query, (self._chunk, name))
        return (PackedColumn(*row) for row in rows)


class _BodyColumns:
    """The columns of a step that is not in a chunk yet."""

    def __init__(self, entry: Entry) -> None:
        self.steps = [entry.step]
        arrays, _ = split_body(entry.step, entry.body)
        names = (name for name, _ in entry.step.columns)
        self._arrays = dict(zip(names, arrays, strict=True))

    def arrays(self, name: str) -> _RowArrays:
        """Return the numbers of a column."""
        return [self._arrays.get(name, _zeros(self.steps[0], name))]

    def numbers(self, name: str, rows: Mapping[int, int]) -> Floats:
        """Return one number of a column, as `ChunkColumns.numbers`."""
        return _numbers(self.arrays(name), rows)


def _values(
    columns: ChunkColumns | _BodyColumns,
    layers: Mapping[int, int],
    kind: str,
    statistic: str,
    rank: int,
) -> dict[int, float]:
    """Return one statistic of one row by step."""
    rows: dict[int, int] = {}
    places = zip(columns.steps, columns.arrays("layer"), columns.arrays("kind"), strict=True)
    for place, (step, layer, kinds) in enumerate(places):
        index = layers.get(step.manifest_revision)
        if (
            step.rank == rank
            and kind in step.kinds
            and not (index is None or layer is None or kinds is None)
        ):
            row = np.flatnonzero((layer == index) & (kinds == step.kinds.index(kind)))
            if len(row):
                rows[place] = int(row[0])

    def column(name: str) -> Floats:
        return columns.numbers(name, rows)

    values = derive_from(statistic, column) if statistic in DERIVATIONS else column(statistic)
    flags = np.nan_to_num(column("flags")).astype(np.uint8)
    values = np.where(flags & Flags.NOT_MEASURED, np.nan, values)
    steps = (columns.steps[place].step for place in rows)
    return dict(zip(steps, values.tolist(), strict=True))


def _numbers(arrays: _RowArrays, rows: Mapping[int, int]) -> Floats:
    """Return the number of each row by place; NaN if the step has no such column."""
    found = ((arrays[place], row) for place, row in rows.items())
    return np.array([np.nan if a is None else float(a[row]) for a, row in found], np.float64)


def _zeros(step: Step, name: str) -> NDArray[np.generic] | None:
    """Return zeros if a column is sent as "all zero", None if it was not measured."""
    return np.broadcast_to(np.zeros(1), step.rows) if name in step.zero else None


def entry_of(head: bytes, body: bytes, crc: int) -> Entry:
    """Return a recorded row as an entry. Raises RecordingError if its bytes have changed."""
    if zlib.crc32(body, zlib.crc32(head)) != crc:
        raise RecordingError("its bytes have changed")
    message = decode([head])
    if not isinstance(message, Step):
        raise RecordingError(f"expected a step, got {type(message).__name__}")
    return Entry(message, head, body)


def _message(entry: Entry) -> Step:
    return msgspec.structs.replace(entry.step, body=entry.body)
