"""Reads and writes the files of the keys directory: of mode 0600, owned by this user, in a directory of mode 0700."""

import os
import stat
import tempfile
from pathlib import Path

from gradscope.errors import UnsafePathError
from gradscope.paths import ensure_private_dir, keys_dir

__all__ = ["private_dir", "read_private", "stamp", "write_private"]

_SIZE_LIMIT_BYTES = 1_000_000


def private_dir() -> Path:
    """Return the keys directory, which is created if necessary. Raises UnsafePathError if it is not private."""
    return ensure_private_dir(keys_dir(), variable="GRADSCOPE_DATA_DIR")


def read_private(path: Path) -> bytes | None:
    """Return the content of a file; None if there is none.

    Raises UnsafePathError if it is a symbolic link, is owned by another user, or is accessible to others.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UnsafePathError(
            f"cannot read {path} ({error.strerror}); expected a file of your own with mode 0600, and no symbolic link"
        ) from error
    with open(fd, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
        status = os.fstat(fd)
        mode = stat.S_IMODE(status.st_mode)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.getuid():
            raise UnsafePathError(
                f"{path} must be a file of user {os.getuid()}, it belongs to user {status.st_uid} or is not a file; "
                "remove it and make the key again"
            )
        if mode & 0o077:
            raise UnsafePathError(
                f"{path} is open to other users (mode {mode:04o}, expected 0600), who may have read or changed "
                f"it; if none of them has: chmod 600 {path}; otherwise make new keys"
            )
        return file.read(_SIZE_LIMIT_BYTES)


def write_private(path: Path, content: bytes, *, may_replace: bool) -> bool:
    """Write a file of mode 0600, which appears whole or not at all. Return False if it exists and is not replaced."""
    fd, temporary = tempfile.mkstemp(prefix=".new-", dir=path.parent)  # mode 0600
    try:
        with open(fd, "wb") as file:  # noqa: PTH123 - a descriptor, not a path
            file.write(content)
            file.flush()
            os.fsync(fd)
        if may_replace:
            Path(temporary).replace(path)
            return True
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        return True
    finally:
        Path(temporary).unlink(missing_ok=True)


def stamp(path: Path) -> tuple[int, ...] | None:
    """Return numbers that differ once a file was replaced or its mode changed; None if there is no file."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_mode
