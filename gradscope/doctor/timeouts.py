"""Time limits, and the reports on examinations that did not finish: because of a time limit or a dead process.

The time limit is a timer signal, which Python handles between two bytecode instructions. So it stops a loop in Python,
but not compiled code that does not return: that requires a separate process.
"""

import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final, NamedTuple

from gradscope.doctor.report.report import Report
from gradscope.doctor.subject.source import short_path
from gradscope.findings import finding

__all__ = [
    "CodePosition",
    "TimeLimitReached",
    "position_of",
    "report_on_death",
    "report_on_timeout",
    "time_limit",
]

_BACKWARD: Final = ("backward", "vjp")
_AGAIN_S: Final = 1.0


class CodePosition(NamedTuple):
    """A line of a file, and the name of the function that contains it."""

    path: str
    line: int
    function: str


class TimeLimitReached(BaseException):
    """The examination timed out. Not an Exception, so that the examined function does not catch it."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise TimeLimitReached inside the block after `seconds`.

    Has no effect outside the main thread, or on systems without such a timer (Windows).
    """
    is_main = threading.current_thread() is threading.main_thread()
    if seconds is None or not is_main or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, _raise_time_limit)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)  # repeated: a bare except may catch one
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _raise_time_limit(_number: int, _frame: FrameType | None) -> None:
    raise TimeLimitReached


def position_of(error: BaseException, path: str) -> CodePosition | None:
    """Return the innermost line of a file in an exception's traceback; None if there is none."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename == path]
    return CodePosition(path, own[-1].lineno or 0, own[-1].name) if own else None


def report_on_timeout(name: str, seconds: float, position: CodePosition | None) -> Report:
    """Return the report on a function whose examination timed out."""
    return _unfinished_report(
        name,
        position,
        f"the examination did not end in {seconds:g} s and was stopped",
        cause="an endless loop, a lock, a download, or inputs that are too large to examine",
        fix="check the line named here; otherwise use smaller example inputs, or a longer --timeout",
    )


def report_on_death(name: str, how: str, position: CodePosition | None, output: str) -> Report:
    """Return the report on a function whose examination ended the process."""
    return _unfinished_report(
        name,
        position,
        f"the process in which it was examined died: {how}",
        cause="compiled code that it calls (an extension, ctypes, a kernel) called abort, or accessed "
        "memory outside of its tensors",
        fix="check sizes, dtypes and contiguity before the call at the line named here",
        output=output,
    )


def _unfinished_report(
    name: str,
    position: CodePosition | None,
    message: str,
    *,
    cause: str,
    fix: str,
    output: str = "",
) -> Report:
    code = (
        "backward-raises"
        if position is not None and position.function in _BACKWARD
        else "forward-raises"
    )
    found = finding(
        code,
        message,
        cause=cause,
        fix=fix,
        where=f"{short_path(position.path)}:{position.line}" if position is not None else "",
        evidence={"output": output} if output else None,
    )
    return Report.of(name, (found,), notes=("the examination did not end: no numbers, no checklist",))
