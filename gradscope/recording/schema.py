"""The schema of a recording: its tables, and the check that a file is a recording.

A message is stored as it arrived over the link: `head` is the msgpack head, `body` the concatenated
pieces of the body, `crc` the CRC-32 of both. They are read by the bounded decoder of the protocol; nothing in a
recording is ever executed. The other columns are used to find and to thin messages.

The newest steps are in `step`, one row for each rank. Older ones are in chunks (`chunk_codec.py`): `chunk` has the
heads of its steps, `chunk_column` their columns. A step that is in both was sent again; the one in `step` counts.

A change that older versions of gradscope cannot read requires a new SCHEMA_VERSION. Version 3 has rounded statistics
(`rounding.py`) in further rows of `chunk_column`; its tables are those of version 2, which is read and continued.
"""

import sqlite3
from pathlib import Path

from gradscope.errors import RecordingError

__all__ = [
    "SCHEMA_VERSION",
    "SUFFIX",
    "OtherVersionError",
    "check_schema",
    "create_tables",
    "set_version",
]

SCHEMA_VERSION = 3
_READ_VERSIONS = (2, SCHEMA_VERSION)
SUFFIX = ".gradscope"

_APPLICATION_ID = 0x47724453
"""Identifies the file as a recording, in the header of SQLite ("GrDS")."""

_MESSAGE = "head BLOB NOT NULL, body BLOB NOT NULL, crc INTEGER NOT NULL"

_TABLES = f"""
CREATE TABLE run (
    run TEXT NOT NULL, script TEXT NOT NULL, user TEXT NOT NULL, host TEXT NOT NULL,
    pid INTEGER NOT NULL, world_size INTEGER NOT NULL, version TEXT NOT NULL,
    started_s REAL NOT NULL, ended_s REAL, reason TEXT NOT NULL,
    is_pinned INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE process (
    rank INTEGER NOT NULL, host TEXT NOT NULL, pid INTEGER NOT NULL, started_s REAL NOT NULL,
    PRIMARY KEY (rank, host, pid, started_s)
);
CREATE TABLE git (folder TEXT PRIMARY KEY, commit_id TEXT, is_dirty INTEGER);
CREATE TABLE environment (id INTEGER PRIMARY KEY, rank INTEGER NOT NULL UNIQUE, {_MESSAGE});
CREATE TABLE manifest (
    id INTEGER PRIMARY KEY, rank INTEGER NOT NULL, revision INTEGER NOT NULL, {_MESSAGE},
    UNIQUE (rank, revision)
);
CREATE TABLE step (
    id INTEGER PRIMARY KEY, step INTEGER NOT NULL, rank INTEGER NOT NULL, {_MESSAGE}, UNIQUE (step, rank)
);
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY AUTOINCREMENT, first_step INTEGER NOT NULL, last_step INTEGER NOT NULL,
    level INTEGER NOT NULL, steps BLOB NOT NULL, removed INTEGER NOT NULL, heads BLOB NOT NULL
);
CREATE TABLE chunk_column (
    id INTEGER PRIMARY KEY, chunk INTEGER NOT NULL, name TEXT NOT NULL, dtype TEXT NOT NULL,
    rows INTEGER NOT NULL, data BLOB NOT NULL, UNIQUE (chunk, name, dtype, rows)
);
CREATE TABLE memory (
    id INTEGER PRIMARY KEY, step INTEGER NOT NULL, rank INTEGER NOT NULL, {_MESSAGE}, UNIQUE (step, rank)
);
CREATE TABLE times (
    id INTEGER PRIMARY KEY, step INTEGER NOT NULL, rank INTEGER NOT NULL, {_MESSAGE}, UNIQUE (step, rank)
);
CREATE TABLE scalars (
    id INTEGER PRIMARY KEY, step INTEGER NOT NULL, rank INTEGER NOT NULL, last_step INTEGER NOT NULL, {_MESSAGE}
);
CREATE TABLE event (
    id INTEGER PRIMARY KEY, step INTEGER NOT NULL, rank INTEGER NOT NULL, {_MESSAGE}
);
CREATE TABLE interventions (
    id INTEGER PRIMARY KEY, step INTEGER NOT NULL, rank INTEGER NOT NULL, revision INTEGER NOT NULL, {_MESSAGE},
    UNIQUE (rank, revision, step)
);
CREATE INDEX chunk_by_step ON chunk (last_step, first_step);
CREATE INDEX scalars_by_step ON scalars (step);
CREATE INDEX event_by_step ON event (step);
CREATE INDEX interventions_by_step ON interventions (step);
"""


class OtherVersionError(RecordingError):
    """A recording has another schema version."""


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables in an empty database, in a transaction that the caller commits with the first row."""
    connection.executescript(
        f"BEGIN;{_TABLES}"
        f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION};"
    )


def set_version(connection: sqlite3.Connection) -> None:
    """Set the version of a recording that this gradscope continues."""
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def check_schema(connection: sqlite3.Connection, path: Path) -> bool:
    """Return True if the database is a recording, False if it is empty.

    Raises RecordingError for any other database, and OtherVersionError for another schema version.
    """
    try:
        # The recorder may create all of this between two queries, so the tables are counted first.
        tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        application = _pragma(connection, "application_id")
        version = _pragma(connection, "user_version")
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
            raise
        raise _no_recording(path, "it is not an SQLite database") from error
    if not tables and not application:
        return False
    if application != _APPLICATION_ID:
        raise _no_recording(path, "it is another program's SQLite database")
    if version not in _READ_VERSIONS:
        known = " and ".join(map(str, _READ_VERSIONS))
        raise OtherVersionError(
            f"{path} has the schema version {version}, this gradscope reads {known}: "
            "open it with the gradscope that wrote it, or upgrade this one"
        )
    return True


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _no_recording(path: Path, found: str) -> RecordingError:
    return RecordingError(
        f"{path} is not a recording of gradscope: {found}; `gradscope ls` lists the recordings. Choose "
        f"another path for a new one; its name usually ends in {SUFFIX}"
    )
