"""A line on a terminal's stderr that says, after a while, that the work goes on; gone when it ends."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

__all__ = ["Line", "progress"]

_PATIENCE_S: Final = 1.0
_BETWEEN_S: Final = 0.5


class Line:
    """What the line says; may be changed while it is shown."""

    def __init__(self, text: str) -> None:
        self.text = text


@contextmanager
def progress(text: str) -> Iterator[Line]:
    """Show a line from one second on, where stderr is a terminal. Elsewhere nothing is written."""
    line = Line(text)
    if sys.stderr is None or not sys.stderr.isatty():
        yield line
        return
    is_over = threading.Event()
    teller = threading.Thread(
        target=_tell, args=(line, is_over), name="gradscope-progress", daemon=True
    )
    teller.start()
    try:
        yield line
    finally:
        is_over.set()
        teller.join()


def _tell(line: Line, is_over: threading.Event) -> None:
    began_s = time.monotonic()
    wait_s = _PATIENCE_S
    while not is_over.wait(wait_s):
        wait_s = _BETWEEN_S
        sys.stderr.write(f"\r{line.text}: {time.monotonic() - began_s:.0f} s\x1b[K")
        sys.stderr.flush()
    if wait_s == _BETWEEN_S:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
