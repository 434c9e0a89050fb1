"""The directories of gradscope's files and sockets on this machine.

- The runtime directory contains the hub's sockets, lock and log. It is on this machine and private to
this user: ``$GRADSCOPE_RUNTIME_DIR``, else ``/tmp/gradscope-<uid>``. It is never the home directory,
because network file systems cannot hold sockets, and never ``$XDG_RUNTIME_DIR``, because batch systems
copy that variable from the login node. - The data directory contains recordings:
``$GRADSCOPE_DATA_DIR``, else the platform's directory for user data. Its directory ``keys`` is private
to this user.
"""

import contextlib
import os
import stat
from pathlib import Path

from platformdirs import user_data_path

from gradscope.errors import UnsafePathError

__all__ = [
    "SOCKET_PATH_LIMIT_BYTES",
    "data_dir",
    "ensure_private_dir",
    "keys_dir",
    "recordings_dir",
    "runtime_dir",
]

SOCKET_PATH_LIMIT_BYTES = 104
"""The shortest limit on a socket's path among the supported systems (macOS; Linux has 108)."""

_PRIVATE_MODE = 0o700


def runtime_dir() -> Path:
    """Return the absolute path of the runtime directory (sockets, lock and log). It may not exist yet."""
    chosen = os.environ.get("GRADSCOPE_RUNTIME_DIR")
    return Path(chosen).absolute() if chosen else Path(f"/tmp/gradscope-{os.getuid()}")  # noqa: S108 - checked below


def data_dir() -> Path:
    """Return the absolute path of the directory for persistent data. It may not exist yet.

    A user without a home, as in some containers, has it in the runtime directory.
    """
    chosen = os.environ.get("GRADSCOPE_DATA_DIR")
    if chosen:
        return Path(chosen).absolute()
    try:
        path = user_data_path("gradscope", appauthor=False)
    except RuntimeError:
        return runtime_dir() / "data"
    return path if path.is_absolute() else runtime_dir() / "data"


def recordings_dir() -> Path:
    """Return the directory of the recordings. It may not exist yet."""
    return data_dir() / "recordings"


def keys_dir() -> Path:
    """Return the directory of this user's keys and of the keys that are authorized. It may not exist yet."""
    return data_dir() / "keys"


def ensure_private_dir(path: Path, *, variable: str = "GRADSCOPE_RUNTIME_DIR") -> Path:
    """Create `path` with mode 0700 if it does not exist, and check that it is private to this user.

    Raises UnsafePathError if `path` is a symbolic link, is not a directory, is owned by another user,
    is accessible to others, is too long for a socket, or cannot be created. `variable` is the environment variable that
    its message names as the remedy; only a runtime directory holds sockets.
    """
    longest = path / "viewers.sock"
    if variable == "GRADSCOPE_RUNTIME_DIR" and len(os.fsencode(longest)) >= SOCKET_PATH_LIMIT_BYTES:
        raise UnsafePathError(
            f"the path {longest} is too long for a socket: expected fewer than "
            f"{SOCKET_PATH_LIMIT_BYTES} bytes, got {len(os.fsencode(longest))}; "
            "set GRADSCOPE_RUNTIME_DIR to a shorter directory"
        )
    try:
        with contextlib.suppress(FileExistsError):  # an existing path is checked below
            path.mkdir(mode=_PRIVATE_MODE, parents=True)
        status = path.lstat()
    except OSError as error:
        raise UnsafePathError(
            f"cannot create the directory {path} ({error.strerror}); "
            f"set {variable} to a directory that you can write"
        ) from error
    _check_private(path, status, variable)
    return path


def _check_private(path: Path, status: os.stat_result, variable: str) -> None:
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafePathError(
            f"{path} must be a directory, not a symbolic link or a file: another user may have created it; "
            f"remove it, or set {variable} elsewhere"
        )
    if status.st_uid != os.getuid():
        raise UnsafePathError(
            f"{path} belongs to user {status.st_uid}, expected {os.getuid()}; "
            f"set {variable} to a directory of your own"
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise UnsafePathError(
            f"{path} is open to other users (mode {stat.S_IMODE(status.st_mode):04o}, expected "
            f"0700); run: chmod 700 {path}"
        )
