"""The recorder's operations on its file: open, insert, thin, mark the end."""

import contextlib
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gradscope.errors import RecordingError
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
from gradscope.recording.chunks import join_oldest, pack_oldest, packed_bytes
from gradscope.recording.git_state import GitState
from gradscope.recording.schema import OtherVersionError, check_schema, create_tables, set_version
from gradscope.recording.sqlite_journal import journal_mode

__all__ = [
    "Row",
    "insert",
    "mark_ended",
    "open_for_writing",
    "row_of",
    "row_of_git",
    "row_of_process",
    "thin",
    "used_bytes",
]

_LOCK_TIMEOUT_S = 2.0
_SAME_NAME_LIMIT = 1000

_PLACES = {
    "process": "rank, host, pid, started_s",
    "environment": "rank, head, body",
    "git": "folder, commit_id, is_dirty",
    "manifest": "rank, revision, head, body",
    "step": "step, rank, head, body",
    "memory": "step, rank, head, body",
    "times": "step, rank, head, body",
    "scalars": "step, rank, last_step, head, body",
    "event": "step, rank, head, body",
    "interventions": "step, rank, revision, head, body",
}
"""The columns of each table that a row gives."""

_KEPT_FIRST = ("process", "interventions", "environment", "git")
"""The tables in which a row stays if it arrives again; in the others the later one replaces it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row to insert, and its approximate size in bytes."""

    table: str
    values: tuple[str | int | float | bytes | None, ...]
    size_bytes: int


def row_of(
    message: Environment | Manifest | Step | Memory | Times | Scalars | Event | Interventions,
    parts: Sequence[bytes],
) -> Row:
    """Return the row for a message, with its bytes as they arrived."""
    head, body = parts[0], b"".join(parts[1:])
    place: tuple[int, ...]
    match message:
        case Environment():
            place = (message.rank,)
        case Manifest():
            place = (message.rank, message.revision)
        case Scalars():
            first, last = (message.steps[0], message.steps[-1]) if message.steps else (0, 0)
            place = (first, message.rank, last)
        case Interventions():
            place = (message.step, message.rank, message.revision)
        case _:
            place = (message.step, message.rank)
    table = type(message).__name__.lower()  # as its table is named
    return Row(table, (*place, head, body), len(head) + len(body))


def row_of_process(hello: Hello) -> Row:
    """Return the row for the process of a rank."""
    return Row("process", (hello.rank, hello.host, hello.pid, hello.started_s), len(hello.host) + 24)


def row_of_git(folder: str, state: GitState) -> Row:
    """Return the row for the git commit of a folder."""
    return Row("git", (folder, state.commit, state.is_dirty), len(folder) + 48)


def insert(connection: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Insert rows. A step that already exists is replaced."""
    for row in rows:
        names, values = _PLACES[row.table], row.values
        if names.endswith("body"):
            head, body = values[-2:]
            names, values = f"{names}, crc", (*values, zlib.crc32(body, zlib.crc32(head)))  # type: ignore[arg-type]  # these two are bytes
        places = ", ".join("?" * len(values))
        verb = "IGNORE" if row.table in _KEPT_FIRST else "REPLACE"
        connection.execute(
            f"INSERT OR {verb} INTO {row.table} ({names}) VALUES ({places})",  # noqa: S608 - ours
            values,
        )


def open_for_writing(path: Path, hello: Hello) -> tuple[Path, sqlite3.Connection]:
    """Open or create the recording for the run of `hello`, at `path` or the next free path.

    A recording of another run, of another schema version, or that is damaged stays as it is: the path is not free.
    Raises RecordingError if `path` is another type of file, and sqlite3.Error or OSError if it cannot
    be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for candidate in _paths_with_numbers(path):
        candidate.touch(mode=0o600)
        connection = sqlite3.connect(candidate, timeout=_LOCK_TIMEOUT_S)
        try:
            if _prepare_for_run(connection, candidate, hello):
                return candidate, connection
        except OtherVersionError:
            pass
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_CORRUPT:
                connection.close()
                raise
        except BaseException:
            connection.close()
            raise
        connection.close()
    raise RecordingError(f"{_SAME_NAME_LIMIT} recordings have names like {path}; remove or move some")


def mark_ended(connection: sqlite3.Connection, reason: str) -> None:
    """Mark the run as ended, with the reason, and give the free pages of the file back.

    The file is then complete without a journal: it can be copied, and read on a disk that is read-only.
    """
    with connection:
        connection.execute("UPDATE run SET ended_s = ?, reason = ?", (time.time(), reason))
    connection.executescript("PRAGMA incremental_vacuum")  # `execute` would free one page
    with contextlib.suppress(sqlite3.OperationalError):  # a reader has it open
        connection.execute("PRAGMA journal_mode = DELETE")


def used_bytes(connection: sqlite3.Connection) -> int:
    """Return the size in use, in bytes, without the pages that thinning has freed."""
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def thin(connection: sqlite3.Connection, exact_bytes: float) -> int:
    """Remove steps of the largest table. Return the number of removed rows.

    Of observed steps, two chunks become one: see `chunks.join_oldest`, also for `exact_bytes`. Of another table, every
    other step of the older half is removed. All ranks of a step are removed together. Manifests and interventions are
    never removed.
    """
    sizes = {
        name: connection.execute(
            f"SELECT coalesce(sum(length(head) + length(body)), 0) FROM {name}"  # noqa: S608 - a name of ours
        ).fetchone()[0]
        for name in ("step", "scalars", "event", "memory", "times")
    }
    sizes["step"] += packed_bytes(connection)
    table = max(sizes, key=lambda name: sizes[name])
    if table == "step":
        joined = join_oldest(connection, exact_bytes=exact_bytes)
        return joined or pack_oldest(connection, is_last=True)
    with connection:
        return connection.execute(
            f"""
            DELETE FROM {table} WHERE step IN (
                SELECT step FROM (
                    SELECT step, row_number() OVER (ORDER BY step) AS place, count(*) OVER () AS places
                    FROM (SELECT DISTINCT step FROM {table})
                ) WHERE place % 2 = 0 AND place <= (places + 1) / 2
            )
            """  # noqa: S608 - a name of ours
        ).rowcount


def _paths_with_numbers(path: Path) -> Iterator[Path]:
    yield path
    for number in range(2, _SAME_NAME_LIMIT):
        yield path.with_name(f"{path.stem}.{number}{path.suffix}")


def _prepare_for_run(connection: sqlite3.Connection, path: Path, hello: Hello) -> bool:
    """Claim a new file, or a file of the same run. Return False if the file belongs to another run."""
    is_new = not check_schema(connection, path)
    # If the process is killed no commit is lost; a power cut loses the last commits at most.
    connection.execute("PRAGMA synchronous = NORMAL")
    if is_new:  # so that `mark_ended` can shrink the file
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    with connection:  # one transaction, so that a reader finds an empty file or one with a run
        if is_new:
            create_tables(connection)
        run = connection.execute("SELECT run, ended_s FROM run").fetchone()
        if run is None:
            _insert_run(connection, hello)
        elif not _is_same_run(connection, run[0], run[1] is not None, hello):
            return False
        insert(connection, [row_of_process(hello)])
        set_version(connection)
        connection.execute("UPDATE run SET ended_s = NULL, reason = ''")
    with contextlib.suppress(
        sqlite3.OperationalError
    ):  # a reader has the file open: it keeps its journal
        connection.execute(f"PRAGMA journal_mode = {journal_mode(path.parent)}")
    return True


def _insert_run(connection: sqlite3.Connection, hello: Hello) -> None:
    connection.execute(
        "INSERT INTO run (run, script, user, host, pid, world_size, version, started_s, reason) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, '')",
        (
            hello.run, hello.script, hello.user, hello.host, hello.pid, hello.world_size, hello.version,
            hello.started_s,
        ),
    )  # fmt: skip


def _is_same_run(connection: sqlite3.Connection, run: str, is_ended: bool, hello: Hello) -> bool:
    """Return whether a process belongs to the recorded run: it is known, or its rank is not recorded yet."""
    if run != hello.run:
        return False
    known = connection.execute(
        "SELECT host = ? AND pid = ? AND started_s = ? FROM process WHERE rank = ?",
        (hello.host, hello.pid, hello.started_s, hello.rank),
    ).fetchall()
    return any(is_it for (is_it,) in known) or (not known and not is_ended)
