"""`PathLock`: an flock on a file, which the kernel releases when its holder dies.

The process that holds `hub.lock` is the hub. `start.lock` only avoids extra work: if several processes
want a hub, one of them starts it and the others wait until it answers.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

__all__ = ["HUB_LOCK", "START_LOCK", "PathLock", "holder_pid"]

HUB_LOCK = "hub.lock"
START_LOCK = "start.lock"


class PathLock:
    """An exclusive lock on `path`, held from a successful `acquire` until `release`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def acquire(self) -> bool:
        """Acquire the lock if it is free. Return whether it is held. Never blocks. Raises OSError."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd
        if not self.is_in_place():  # the file was removed between open and flock
            self.release()
            return False
        return True

    def is_in_place(self) -> bool:
        """Return whether the locked file still exists at the path; another program may have removed it."""
        if self._fd is None:
            return False
        try:
            found = self.path.lstat()
        except OSError:
            return False
        mine = os.fstat(self._fd)
        return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)

    def write(self, text: str) -> None:
        """Write the holder of the lock into the file, for users and for `holder_pid`. A full disk is not an error."""
        if self._fd is not None:
            with suppress(OSError):
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, text.encode(), 0)

    def release(self) -> None:
        """Release the lock explicitly, because a forked child may hold a copy of the descriptor."""
        if self._fd is not None:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.release()


def holder_pid(path: Path) -> int | None:
    """Return the process id that the last holder has written; None if there is none."""
    try:
        word = path.read_text(encoding="utf-8").split(maxsplit=1)[0]
        return int(word)
    except (OSError, ValueError, IndexError):
        return None
