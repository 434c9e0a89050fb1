"""A progress line on stderr, shown if stderr is a terminal and erased when the work ends."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["ProgressLine", "progress"]

_DELAY_S: Final = 1.0
_INTERVAL_S: Final = 0.5


class ProgressLine:
    """The text of the line, which may be changed while the line is shown."""

    def __init__(self, text: str) -> None:
        self.text = text


@contextmanager
def progress(text: str) -> Iterator[ProgressLine]:
    """Show `text` and the elapsed seconds after the first second. Does nothing if stderr is not a terminal."""
    line = ProgressLine(text)
    if sys.stderr is None or not sys.stderr.isatty():
        yield line
        return
    is_over = threading.Event()
    writer = threading.Thread(
        target=_update_line, args=(line, is_over), name="gradscope-progress", daemon=True
    )
    writer.start()
    try:
        yield line
    finally:
        is_over.set()
        writer.join()


def _update_line(line: ProgressLine, is_over: threading.Event) -> None:
    began_s = time.monotonic()
    wait_s = _DELAY_S
    while not is_over.wait(wait_s):
        wait_s = _INTERVAL_S
        sys.stderr.write(f"\r{line.text}: {time.monotonic() - began_s:.0f} s\x1b[K")
        sys.stderr.flush()
    if wait_s == _INTERVAL_S:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
