"""What stands at the other end of stdout: a terminal, whether it takes colours, and how wide it is."""

import os
import shutil
import sys

__all__ = ["has_colors", "is_terminal", "width"]


def is_terminal() -> bool:
    """Whether a full screen can be drawn: both ends are a terminal, and not a dumb one."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def has_colors() -> bool:
    """Whether colours are wanted on stdout: see no-color.org."""
    is_dumb = os.environ.get("TERM", "dumb") == "dumb"
    return sys.stdout.isatty() and not is_dumb and not os.environ.get("NO_COLOR")


def width() -> int:
    """Return how many columns stdout has; a pipe has 120."""
    return shutil.get_terminal_size((120, 32)).columns
