"""The hub process: election, signals, file limit, log and exit.

Threads: the loop of `Hub` runs in the main thread and owns both sockets. Each recorder has its own
    thread.
"""

import contextlib
import os
import resource
import signal
import stat
import sys
import time
from pathlib import Path

from gradscope.errors import GradscopeError
from gradscope.hub.server import Hub
from gradscope.paths import ensure_private_dir
from gradscope.transport import hub_address
from gradscope.transport.election import LOG_LIMIT_BYTES
from gradscope.transport.lock import HUB_LOCK, PathLock

__all__ = ["raise_file_limit", "serve"]

_IDLE_S = 10.0
_LOCK_PATIENCE_S = 0.2
_FILES = 65_536


def serve(directory: Path | None, ready_fd: int | None = None) -> int:
    """Run the hub of a runtime directory until it is idle or receives a signal. Return the exit code.

    Writes to `ready_fd` and closes it when a hub listens, either this one or another one that was
    first.
    """
    try:
        address = hub_address(None if directory is None else str(directory))
        with PathLock(ensure_private_dir(address.directory) / HUB_LOCK) as lock:
            if not _elected(lock):
                _say_ready(ready_fd)
                return 0
            raise_file_limit()
            _use_all_processors()
            with Hub(address, lock, idle_s=_idle_s()) as hub:
                for number in (signal.SIGTERM, signal.SIGINT):
                    signal.signal(number, lambda *_: hub.stop("the hub received a signal to end"))
                _say_ready(ready_fd)
                hub.run(housekeeping=_bound_log)
    except (GradscopeError, OSError) as error:
        sys.stderr.write(f"gradscope hub: {error}\n")
        return 1
    return 0


def _elected(lock: PathLock) -> bool:
    # A hub that is ending holds the lock slightly longer than its sockets.
    deadline_s = time.monotonic() + _LOCK_PATIENCE_S
    while not lock.acquire():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.01)
    return True


def _say_ready(ready_fd: int | None) -> None:
    if ready_fd is not None:
        os.write(ready_fd, b"1")
        os.close(ready_fd)


def raise_file_limit() -> None:
    """Allow this process 10,000 file descriptors, if the system does."""
    # libzmq aborts a process that cannot accept a connection because file descriptors ran out.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _use_all_processors() -> None:
    """Let this process run on all processors that the system allows it, where the system can.

    The training that starts a hub is often bound to a few processors, and all of them compute.
    """
    if hasattr(os, "sched_setaffinity"):  # not on macOS
        with contextlib.suppress(OSError):  # a container may forbid it; then the hub runs as it is
            os.sched_setaffinity(0, range(os.cpu_count() or 1))


def _idle_s() -> float:
    try:
        return float(os.environ.get("GRADSCOPE_HUB_IDLE_S", _IDLE_S))
    except ValueError:
        return _IDLE_S


def _bound_log() -> None:
    """Truncate the log if it is too long. Does nothing if standard error is not a regular file."""
    status = os.fstat(2)
    if stat.S_ISREG(status.st_mode) and status.st_size > LOG_LIMIT_BYTES:
        os.ftruncate(2, 0)
