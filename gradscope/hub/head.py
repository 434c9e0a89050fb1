"""`Head`: starts the process that forwards the runs of this hub to a head hub, if `GRADSCOPE_HEAD` names one."""

import os
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["Head"]

_AGAIN_S = 10.0


class Head:
    """The forwarding process of a hub. It is started while runs are live, and ends itself. `close` ends it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._address = os.environ.get("GRADSCOPE_HEAD", "")
        self._process: subprocess.Popen[bytes] | None = None
        self._due_s = 0.0

    def tend(self, *, has_live_runs: bool) -> None:
        """Start the process if it is needed and does not run. Tries again after 10 s."""
        if not self._address or (self._process is not None and self._process.poll() is None):
            return
        if not has_live_runs or time.monotonic() < self._due_s:
            return
        self._due_s = time.monotonic() + _AGAIN_S
        command = [sys.executable, "-P", "-m", "gradscope.hub.forwarding"]
        try:
            self._process = subprocess.Popen(
                [*command, str(self._directory), self._address], stdin=subprocess.DEVNULL, cwd="/"
            )
        except OSError as error:
            sys.stderr.write(f"gradscope hub: the runs cannot be forwarded: {error}\n")

    def close(self) -> None:
        """End the process."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
