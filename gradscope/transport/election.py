"""`ensure_hub`: finds the hub, or starts it.

If several processes want to start a hub, the one that holds `start.lock` starts the hub process. That
process becomes the hub only if it acquires `hub.lock`. A race costs at most one extra process and never
results in two hubs.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from gradscope.errors import LinkError
from gradscope.paths import ensure_private_dir
from gradscope.transport.addresses import HubAddress, hub_address
from gradscope.transport.lock import START_LOCK, PathLock
from gradscope.transport.probe import hub_answers, hub_listens, hub_pid

__all__ = ["LOG_LIMIT_BYTES", "LOG_NAME", "ensure_hub"]

LOG_NAME = "hub.log"
LOG_LIMIT_BYTES = 256 * 1024

_POLL_S = 0.01
_ANSWER_S = 1.0
_LOG_TAIL_BYTES = 2_000


def ensure_hub(endpoint: str | None = None, *, timeout_s: float = 5.0) -> HubAddress:
    """Return the address of a hub that answers; start one if none is running. Blocks up to `timeout_s`.

    The hub is a separate process that outlives this one and ends when it has no peers. Raises
    UnsafePathError if the runtime directory is not private to this user or cannot be created, and
    LinkError with the reason if no hub answers within `timeout_s`.
    """
    address = hub_address(endpoint)
    ensure_private_dir(address.directory)
    deadline_s = time.monotonic() + timeout_s
    impatient_s = time.monotonic() + timeout_s / 2  # a starter that hangs must not block the others
    is_started = False
    with PathLock(address.directory / START_LOCK) as starter:
        while (left_s := deadline_s - time.monotonic()) > 0:
            if hub_listens(address):
                if hub_answers(address, min(left_s, _ANSWER_S)):
                    return address
            elif not is_started and (_acquire(starter) or time.monotonic() > impatient_s):
                # The hub of the last starter may have started between the check above and the lock.
                if hub_listens(address):
                    starter.release()
                else:
                    is_started = True
                    _start_hub(address, left_s)
            else:
                time.sleep(_POLL_S)
    raise LinkError(_why_silent(address, timeout_s))


def _acquire(lock: PathLock) -> bool:
    try:
        return lock.acquire()
    except OSError as error:
        raise LinkError(
            f"cannot lock {lock.path} ({error.strerror}); the runtime directory must be writable and "
            "on this machine's own disk: set GRADSCOPE_RUNTIME_DIR"
        ) from error


def _start_hub(address: HubAddress, timeout_s: float) -> None:
    """Start the hub, detached, and wait until it listens or has failed."""
    if not sys.executable:
        raise LinkError("cannot start a hub: this interpreter does not know its own path")
    command = [sys.executable, "-P", "-m", "gradscope.hub", "--detach", str(address.directory)]
    log = _open_log(address.directory / LOG_NAME)
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=_environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise LinkError(f"cannot start a hub with {sys.executable}: {error.strerror}") from error
    finally:
        os.close(log)
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()  # this process only waits for the hub, which may still start
        process.wait()
        return
    if code != 0:
        raise LinkError(f"the hub could not start (exit code {code}).{_log_tail(address)}")


def _environment() -> dict[str, str]:
    # The hub does no linear algebra: a thread pool would only slow its start.
    return os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def _open_log(path: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        log = os.open(path, flags, 0o600)
    except OSError as error:
        raise LinkError(f"cannot write the hub's log {path}: {error.strerror}") from error
    if os.fstat(log).st_size > LOG_LIMIT_BYTES:
        os.ftruncate(log, 0)
    return log


def _why_silent(address: HubAddress, timeout_s: float) -> str:
    pid = hub_pid(address)
    if pid is not None:
        return (
            f"the hub at {address.directory} (process {pid}) did not answer in {timeout_s:g} s; "
            f"it may be stopped: kill -CONT {pid}, or kill {pid} so that a new one is started"
        )
    return f"no hub started at {address.directory} in {timeout_s:g} s.{_log_tail(address)}"


def _log_tail(address: HubAddress) -> str:
    path = address.directory / LOG_NAME
    try:
        lines = path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f" The last line of {path}: {lines[-1]}" if lines else ""
