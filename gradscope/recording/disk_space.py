"""The disk space of all recordings of this user: its limit, removing and pinning recordings.

Above the limit, the oldest recordings are removed. Kept are pinned recordings, those of live runs, files that
are not readable, and files in other directories.
"""

import contextlib
import os
import shutil
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gradscope.columns import bytes_in_words
from gradscope.errors import CommandRefusedError, RecordingError, UsageError
from gradscope.notice import print_notice
from gradscope.paths import recordings_dir
from gradscope.recording.reader import RecordingInfo, list_recordings, open_recording
from gradscope.recording.schema import SUFFIX

__all__ = [
    "LIMIT_VARIABLE",
    "files_size_bytes",
    "find_recording",
    "is_live",
    "make_room",
    "pin_recording",
    "remove_recording",
    "total_limit_bytes",
]

LIMIT_VARIABLE: Final = "GRADSCOPE_RECORDINGS_GB"
"""The environment variable with the limit for all recordings together, in GB (10^9 bytes)."""

_DEFAULT_GB: Final = 10.0
_SHARE_OF_DISK: Final = 0.1
_PARTS: Final = ("", "-wal", "-shm", "-journal")
_LOCK_TIMEOUT_S: Final = 5.0
_QUIET_S: Final = 60.0
"""A recorder commits every second while steps arrive; a file that changed within this time may be open."""

_FORGOTTEN_S: Final = 30 * 24 * 3600.0
"""A recording of another machine without an end counts as live for this time after its last change."""


def total_limit_bytes() -> int:
    """Return the limit for all recordings: GRADSCOPE_RECORDINGS_GB, else 10 GB, at most a tenth of the disk.

    Raises UsageError if the variable is not a number of at least 0.
    """
    chosen = os.environ.get(LIMIT_VARIABLE)
    if chosen:
        try:
            limit = float(chosen) * 1e9
        except ValueError:
            limit = -1.0
        if not 0 <= limit < float("inf"):
            raise UsageError(f"{LIMIT_VARIABLE} must be a number of GB of at least 0, got {chosen!r}")
        return int(limit)
    place = recordings_dir()
    while not place.exists() and place != place.parent:
        place = place.parent
    return int(min(_DEFAULT_GB * 1e9, _SHARE_OF_DISK * shutil.disk_usage(place).total))


def make_room(needed_bytes: int, *, limit_bytes: int | None = None) -> list[Path]:
    """Remove the oldest recordings until `needed_bytes` more fit into the limit. Return the removed files.

    A recording that cannot be removed is kept.
    """
    limit = total_limit_bytes() if limit_bytes is None else limit_bytes
    directory = recordings_dir()
    used = sum(files_size_bytes(path) for path in directory.glob(f"*{SUFFIX}"))
    removed: list[Path] = []
    if used + needed_bytes <= limit:
        return removed
    for info in reversed(list_recordings(directory)):
        if used + needed_bytes <= limit:
            break
        if info.problem or info.is_pinned or is_live(info):
            continue
        size = files_size_bytes(info.path)
        with contextlib.suppress(OSError):
            _unlink(info.path)
            used -= size
            removed.append(info.path)
            print_notice(
                f"gradscope: removed the recording of {info.run!r} ({bytes_in_words(size)}), because all recordings "
                f"together may have {bytes_in_words(limit)} ({LIMIT_VARIABLE}); `gradscope pin` keeps one"
            )
    return removed


def files_size_bytes(path: Path) -> int:
    """Return the size of a recording with its journal."""
    size = 0
    for part in _parts(path):
        with contextlib.suppress(OSError):
            size += part.stat().st_size
    return size


def is_live(info: RecordingInfo) -> bool:
    """Return whether the run of a recording may still be recorded."""
    if info.ended_s is not None:
        return False
    wal = info.path.with_name(info.path.name + "-wal")  # a reader makes an empty one
    silent_s = time.time() - max(_written_s(info.path), _written_s(wal))
    if silent_s < _QUIET_S:
        return True
    if info.host != socket.gethostname():
        return silent_s < _FORGOTTEN_S
    try:
        os.kill(info.pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return info.pid > 0


def find_recording(run: str) -> RecordingInfo:
    """Return the recording of a run, by its name or the path of its file.

    Raises RecordingError if there is none, and UsageError if several have this name.
    """
    if Path(run).is_file():
        with open_recording(run) as recording:
            return recording.info
    found = [info for info in list_recordings() if info.run == run and not info.problem]
    if len(found) > 1:
        paths = ", ".join(str(info.path) for info in found)
        raise UsageError(
            f"{len(found)} recordings have the name {run!r}; give the path of one: {paths}"
        )
    if not found:
        open_recording(run).close()  # raises, and names the nearest recordings
        raise RecordingError(f"there is no recording {run!r}; `gradscope ls` lists them")
    return found[0]


def remove_recording(info: RecordingInfo) -> int:
    """Remove a recording. Return its size in bytes.

    Raises CommandRefusedError if it is pinned or its run is live, and RecordingError if it cannot be removed.
    """
    if info.is_pinned:
        raise CommandRefusedError(
            f"the recording of {info.run!r} is pinned; first: gradscope unpin {info.run}"
        )
    if is_live(info):
        raise CommandRefusedError(
            f"the run {info.run!r} may still be recorded: it has no end, and {info.path} has changed a short time "
            "ago or its process is alive"
        )
    size = files_size_bytes(info.path)
    try:
        _unlink(info.path)
    except OSError as error:
        raise RecordingError(f"{info.path} cannot be removed: {error.strerror}") from error
    return size


def pin_recording(path: Path, *, is_pinned: bool) -> None:
    """Pin a recording, so that it is not removed, or unpin it. Raises RecordingError if it cannot be changed."""
    try:
        with (
            contextlib.closing(sqlite3.connect(path, timeout=_LOCK_TIMEOUT_S)) as connection,
            connection,
        ):
            connection.execute("UPDATE run SET is_pinned = ?", (is_pinned,))
    except sqlite3.Error as error:
        raise RecordingError(f"{path} cannot be changed: {error}") from error


def _parts(path: Path) -> Iterator[Path]:
    return (path.with_name(path.name + ending) for ending in _PARTS)


def _unlink(path: Path) -> None:
    path.unlink()
    for part in _parts(path):
        part.unlink(missing_ok=True)


def _written_s(path: Path) -> float:
    """Return when a file was written last; 0 if it is empty or not there."""
    try:
        status = path.stat()
    except OSError:
        return 0.0
    return status.st_mtime if status.st_size else 0.0
