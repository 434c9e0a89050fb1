"""Runs the training of the demo in a separate process."""

import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from gradscope.client import Client, connect
from gradscope.errors import GradscopeError, NothingToConnectError

__all__ = ["Trainer", "TrainerDiedError", "await_run", "new_run_name"]

_APPEAR_S = 90.0
_POLL_S = 0.1
_LEAVE_S = 5.0
_TAIL_LINES = 15
_INTERRUPTING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class TrainerDiedError(GradscopeError):
    """The training process failed. The message contains the end of its output."""


class Trainer:
    """The process `python -m gradscope.demo`, between `__enter__` and `__exit__`.

    Its output is written to the file `log`.
    """

    def __init__(self, name: str, *options: str, threads: int | None = None) -> None:
        self.name = name
        self.log = Path(tempfile.gettempdir()) / f"gradscope-{name}.log"
        self._command = [sys.executable, "-P", "-m", "gradscope.demo", *options]
        self._environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as log, _signals_held_back():
                # In the terminal's own process group, so that closing the terminal ends it too.
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                )
        except BaseException:
            self.stop()  # `__exit__` is not called after an interruption in `__enter__`
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the process with SIGTERM, like a job scheduler, so that it can write its files."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def is_done(self) -> bool:
        """Return whether the training has finished. Raises TrainerDiedError if it failed."""
        code = None if self._process is None else self._process.poll()
        if code:
            raise TrainerDiedError(
                f"the training ended with exit code {code}; the end of {self.log}:\n{self._tail()}"
            )
        return code == 0

    def last_step(self) -> int:
        """Return the last step in the output; -1 if there is none."""
        steps = re.findall(r"^step +(\d+)", self._output(), re.MULTILINE)
        return int(steps[-1]) if steps else -1

    def _output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def _tail(self) -> str:
        return "\n".join(f"    {line}" for line in self._output().splitlines()[-_TAIL_LINES:])


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Delay signals until the process has been started, so that it is always stopped."""
    came: list[int] = []
    before = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in _INTERRUPTING}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for each in came:
        signal.raise_signal(each)


def new_run_name() -> str:
    """Return a new random name."""
    return f"demo-{secrets.token_hex(3)}"


def await_run(trainer: Trainer, *, name: str, want: Literal["observe", "control"]) -> Client:
    """Return a client of the trainer's run as soon as the hub knows the run.

    Raises TrainerDiedError, or NothingToConnectError if the run does not appear.
    """
    deadline_s = time.monotonic() + _APPEAR_S
    while True:
        try:
            return connect(trainer.name, name=name, want=want)
        except NothingToConnectError as error:
            if trainer.is_done() or time.monotonic() > deadline_s:
                raise NothingToConnectError(
                    f"the training did not join a hub; its output is in {trainer.log}. {error}"
                ) from error
        time.sleep(_POLL_S)
