"""The hub that a test or its training has started: its process, and its end."""

import os
import signal
from pathlib import Path

from gradscope.transport import HubAddress
from gradscope.transport.lock import HUB_LOCK, holder_pid
from support.waiting import wait_for

__all__ = ["end_hub", "is_alive", "pid_of_hub"]


def is_alive(pid: int) -> bool:
    """Return whether a process runs: one that has ended and was not waited for does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] != "Z"


def pid_of_hub(address: HubAddress) -> int | None:
    """Return the process id of the hub that wrote itself into the lock last."""
    return holder_pid(address.directory / HUB_LOCK)


def end_hub(address: HubAddress) -> None:
    """Kill the hub at an address, if there is one, and wait for its end."""
    pid = pid_of_hub(address)
    if pid is not None and is_alive(pid):
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_alive(pid), f"the end of process {pid}")
