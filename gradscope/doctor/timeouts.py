"""An examination that could not end: a time limit that is over, or a process that died.

The limit is a timer's signal, which Python takes up between two of its own instructions. A loop in
Python is stopped by that. Code that does not come back to Python is not: it needs a process of its own.
"""

import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Final

from gradscope.doctor.diagnoses.failures import BACKWARD_RAISES, FORWARD_RAISES
from gradscope.doctor.report.report import Report
from gradscope.doctor.subject.source import short_path

__all__ = ["Place", "TimeIsUp", "died", "out_of_time", "place_of", "time_limit"]

Place = tuple[str, int, str]
"""A file, a line and the name of the function there."""

_BACKWARD: Final = ("backward", "vjp")
_AGAIN_S: Final = 1.0


class TimeIsUp(BaseException):
    """The time limit is over. No Exception: it must not be taken for the examined function's own."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raise TimeIsUp inside of the block after so long. Nothing where there is no such timer.

    Only the main thread of a POSIX system has one.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if seconds is None or not is_main or not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.signal(signal.SIGALRM, _raise)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)  # again: a bare except may swallow one
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _raise(_number: int, _frame: FrameType | None) -> None:
    raise TimeIsUp


def place_of(error: BaseException, path: str) -> Place | None:
    """Return the innermost place in a file that an exception comes from."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename == path]
    return (path, own[-1].lineno or 0, own[-1].name) if own else None


def out_of_time(name: str, seconds: float, place: Place | None) -> Report:
    """Return the report on a function whose examination did not end in time."""
    return _report(
        name,
        place,
        f"the examination did not end in {seconds:g} s and was stopped",
        cause="a loop without an end, a lock, a download, or inputs that are too large to be examined",
        fix="look at the line named here; else give smaller example inputs, or a longer --timeout",
    )


def died(name: str, how: str, place: Place | None, said: Sequence[str]) -> Report:
    """Return the report on a function that took its process with it."""
    return _report(
        name,
        place,
        f"the process in which it was examined died: {how}",
        cause="compiled code below it (an extension, ctypes, a kernel) called abort, or read or wrote "
        "where it must not",
        fix="check sizes, dtypes and contiguity before the call at the line named here",
        evidence=said,
    )


def _report(
    name: str, place: Place | None, message: str, *, cause: str, fix: str, evidence: Sequence[str] = ()
) -> Report:
    code = BACKWARD_RAISES if place is not None and place[2] in _BACKWARD else FORWARD_RAISES
    where = f"{short_path(place[0])}:{place[1]}" if place is not None else ""
    finding = code.finding(message, cause=cause, fix=fix, where=where, evidence=evidence)
    return Report(name, (finding,), (), (), ("not examined to the end: no numbers, no checklist",))
