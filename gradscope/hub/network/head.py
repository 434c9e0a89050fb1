"""`Head`: starts the process that forwards the runs of this hub to a head hub, if `GRADSCOPE_HEAD` names one."""

import os
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["Head"]

_FIRST_S = 10.0
_LAST_S = 120.0


class Head:
    """The forwarding process of a hub. It is started while runs are live, and ends itself. `close` ends it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._address = os.environ.get("GRADSCOPE_HEAD", "")
        self._process: subprocess.Popen[bytes] | None = None
        self._due_s = 0.0
        self._again_s = _FIRST_S

    def tend(self, *, has_live_runs: bool) -> None:
        """Start the process if it is needed and does not run. After a failure, tries again after 10 to 120 s."""
        if not self._address or (self._process is not None and self._process.poll() is None):
            return
        if not has_live_runs or time.monotonic() < self._due_s:
            return
        has_failed = self._process is not None and self._process.returncode != 0
        self._again_s = min(2 * self._again_s, _LAST_S) if has_failed else _FIRST_S
        self._due_s = time.monotonic() + self._again_s
        command = [sys.executable, "-P", "-m", "gradscope.hub.network.forwarding"]
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
