"""The git commit of a folder, read by the program `git` without waiting for it.

The folder is only read: no lock is taken, no file is written, and neither hooks nor a file system monitor run.
"""

import contextlib
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import IO

__all__ = ["GitReading", "GitState", "start_reading"]

_TIMEOUT_S = 10.0
_ARGUMENTS = (
    "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null",
    "status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=all",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class GitState:
    """The commit of a folder, and whether a tracked file differs from it. None: not known."""

    commit: str | None = None
    is_dirty: bool | None = None


class GitReading:
    """A `git status` in progress. `result` stops it after 10 s."""

    def __init__(self, process: "subprocess.Popen[bytes]", output: IO[bytes]) -> None:
        self._process = process
        self._output = output
        self._stop_at_s = time.monotonic() + _TIMEOUT_S

    def result(self, *, last_wait_s: float | None = None) -> GitState | None:
        """Return the state; None while git is at work. With `last_wait_s`, wait so long, then stop git."""
        if last_wait_s is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(last_wait_s)
        code = self._process.poll()
        if code is None:
            if last_wait_s is None and time.monotonic() < self._stop_at_s:
                return None
            self._process.kill()
            self._process.wait()
        self._output.seek(0)
        text = self._output.read().decode("utf-8", errors="replace")
        self._output.close()
        return _parse(text) if code == 0 else GitState()


def start_reading(directory: str) -> GitReading | None:
    """Start `git status` in a folder; None if there is no such folder or no git."""
    # Variables such as GIT_DIR would name another repository.
    env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `result`; a pipe could fill up and block git
    try:
        process = subprocess.Popen(
            ["git", *_ARGUMENTS],  # noqa: S607 - the git of this user
            cwd=directory,
            env=env | {"LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.DEVNULL,
        )
    except (OSError, ValueError):
        output.close()
        return None
    return GitReading(process, output)


def _parse(text: str) -> GitState:
    """Read the output of `git status --porcelain=v2 --branch`: headers with "#", then changed files."""
    lines = text.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), None)
    is_known = commit is not None and not commit.startswith("(")  # "(initial)": no commit yet
    return GitState(commit if is_known else None, any(not line.startswith("#") for line in lines))
