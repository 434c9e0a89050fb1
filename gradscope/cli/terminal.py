"""Properties of the terminal on stdout: whether there is one, its colours and its width."""

import os
import shutil
import sys

__all__ = ["has_colors", "is_terminal", "width"]


def is_terminal() -> bool:
    """Return whether stdin and stdout are a terminal that can show a full screen (not "dumb")."""
    return sys.stdin.isatty() and sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def has_colors() -> bool:
    """Return whether stdout may have colours (see no-color.org)."""
    is_dumb = os.environ.get("TERM", "dumb") == "dumb"
    return sys.stdout.isatty() and not is_dumb and not os.environ.get("NO_COLOR")


def width() -> int:
    """Return the number of columns of stdout; 120 for a pipe."""
    return shutil.get_terminal_size((120, 32)).columns
