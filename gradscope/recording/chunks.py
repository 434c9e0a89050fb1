"""Chunks of observed steps in a recording: the recorder packs the oldest steps, and joins chunks to save space."""

import itertools
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from gradscope.errors import ProtocolError
from gradscope.protocol import Event, decode
from gradscope.recording.chunk_codec import Entry, encode_columns, encode_heads, split_body
from gradscope.recording.stored_steps import ChunkColumns, entry_of

__all__ = ["EXACT_BYTES", "join_oldest", "pack_oldest", "packed_bytes"]

STEPS: Final = 64
"""The number of steps in a chunk."""

SIZE_BYTES: Final = 4 * 2**20
"""The size of a chunk before compression. It bounds the time that it takes to show any step."""

_WAITING: Final = 16
"""The newest steps are not packed, because another rank may still send its rows of them."""

EXACT_BYTES: Final = 8 * 2**20
"""How large the chunks of a recording become before the statistics of further ones are rounded."""

_NONFINITE: Final = ("nan", "posinf", "neginf")


@dataclass(frozen=True, slots=True)
class _Chunk:
    id: int
    level: int
    removed: int


def pack_oldest(
    connection: sqlite3.Connection, *, is_last: bool, exact_bytes: float = EXACT_BYTES
) -> int:
    """Move the oldest steps into a chunk, if there are enough of them. Return the number of rows moved.

    The statistics are rounded if the chunks together have more than `exact_bytes`.
    With `is_last`, any number of steps is enough, and the newest are not rounded. One transaction: a reader finds each
    step in one of the two places.
    """
    sizes = connection.execute(
        "SELECT step, sum(length(head) + length(body)) FROM step GROUP BY step ORDER BY step"
    ).fetchall()
    totals = itertools.accumulate(size for _, size in sizes)
    count = sum(1 for total in itertools.islice(totals, STEPS) if total <= SIZE_BYTES) or 1
    is_end = count + _WAITING > len(sizes)
    if not sizes or (is_end and not is_last):
        return 0
    last = sizes[count - 1][0]
    rows = connection.execute(
        "SELECT head, body, crc FROM step WHERE step <= ? ORDER BY rank, step", (last,)
    ).fetchall()
    entries = [entry for entry in (entry_of(*row) for row in rows) if _fits(entry)]
    is_rounded = not is_end and packed_bytes(connection) > exact_bytes
    with connection:
        if entries:
            _insert_chunk(connection, entries, level=0, removed=0, is_rounded=is_rounded)
        connection.execute("DELETE FROM step WHERE step <= ?", (last,))
    return len(rows)


def packed_bytes(connection: sqlite3.Connection) -> int:
    """Return the size of all chunks without their heads."""
    query = "SELECT coalesce(sum(length(data)), 0) FROM chunk_column"
    return int(connection.execute(query).fetchone()[0])


def join_oldest(connection: sqlite3.Connection, *, exact_bytes: float = EXACT_BYTES) -> int:
    """Replace two neighbouring chunks by one with every other of their steps. Return the number of removed steps.

    They are the two oldest chunks of the level that most chunks have, so that the distance between steps grows
    with their age. Of two neighbouring steps the first is kept, unless only the other one has an element that is not
    finite, or an event. A chunk without a neighbour of its level is joined with the next one.
    """
    chunks = _list_chunks(connection)
    if not chunks:
        return 0
    levels = [chunk.level for chunk in chunks]
    level = max(set(levels), key=lambda each: (levels.count(each), -each))
    first = levels.index(level) if levels.count(level) > 1 else 0
    joined = chunks[first : first + 2]
    columns = [ChunkColumns(connection, chunk.id) for chunk in joined]
    entries = [entry for each in columns for entry in each.entries()]
    steps = sorted({entry.step.step for entry in entries})
    kept = _kept_steps(steps, _notable_steps(connection, entries, steps))
    if len(kept) == len(steps):
        return 0
    entries = [entry for entry in entries if entry.step.step in kept]
    entries.sort(key=lambda entry: (entry.step.rank, entry.step.step))
    removed = len(steps) - len(kept)
    is_rounded = packed_bytes(connection) > exact_bytes or any(each.rounded() for each in columns)
    with connection:
        for chunk in joined:
            connection.execute("DELETE FROM chunk WHERE id = ?", (chunk.id,))
            connection.execute("DELETE FROM chunk_column WHERE chunk = ?", (chunk.id,))
        before = sum(chunk.removed for chunk in joined)
        top = max(chunk.level for chunk in joined) + 1
        _insert_chunk(connection, entries, level=top, removed=before + removed, is_rounded=is_rounded)
    return removed


def _list_chunks(connection: sqlite3.Connection) -> list[_Chunk]:
    rows = connection.execute("SELECT id, level, removed FROM chunk ORDER BY first_step, id")
    return [_Chunk(*row) for row in rows]


def _insert_chunk(
    connection: sqlite3.Connection,
    entries: Sequence[Entry],
    *,
    level: int,
    removed: int,
    is_rounded: bool,
) -> None:
    steps = sorted({entry.step.step for entry in entries})
    chunk = connection.execute(
        "INSERT INTO chunk (first_step, last_step, level, steps, removed, heads) VALUES (?, ?, ?, ?, ?, ?)",
        (
            steps[0], steps[-1], level, msgspec.msgpack.encode(steps), removed, encode_heads(entries),
        ),
    ).lastrowid  # fmt: skip
    connection.executemany(
        "INSERT INTO chunk_column (chunk, name, dtype, rows, data) VALUES (?, ?, ?, ?, ?)",
        [
            (chunk, each.name, each.dtype, each.rows, each.data)
            for each in encode_columns(entries, is_rounded=is_rounded)
        ],
    )


def _fits(entry: Entry) -> bool:
    """Return whether a body has what its head says; one that does not cannot be read by anyone."""
    try:
        split_body(entry.step, entry.body)
    except ProtocolError:
        return False
    return True


def _kept_steps(steps: Sequence[int], notable: set[int]) -> set[int]:
    """Return one of each two neighbouring steps."""
    pairs = itertools.zip_longest(steps[::2], steps[1::2])
    return {second if second in notable and first not in notable else first for first, second in pairs}


def _notable_steps(
    connection: sqlite3.Connection, entries: Iterable[Entry], steps: Sequence[int]
) -> set[int]:
    """Return the steps with an event of a problem, or with a number that is not finite."""
    found = connection.execute(
        "SELECT step, head FROM event WHERE step BETWEEN ? AND ?", (steps[0], steps[-1])
    )
    notable = {step for step, head in found if _is_notable(head)}
    for entry in entries:
        names = [name for name, _ in entry.step.columns]
        if not set(names).isdisjoint(_NONFINITE):  # a column of zeros is not in a body
            arrays, _ = split_body(entry.step, entry.body)
            if any(
                np.any(array) for name, array in zip(names, arrays, strict=False) if name in _NONFINITE
            ):
                notable.add(entry.step.step)
    return notable


def _is_notable(head: bytes) -> bool:
    try:
        event = decode([head])
    except ProtocolError:
        return False
    return isinstance(event, Event) and (event.level != "info" or event.finding is not None)
