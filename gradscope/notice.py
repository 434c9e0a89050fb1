"""`print_notice`: one line for the user, on stderr."""

import sys

__all__ = ["print_notice"]


def print_notice(line: str) -> None:
    """Write one line to stderr, if the process has one.

    The line and its end are one write, so lines of several ranks on one terminal do not mix, also under `python -u`.
    A stderr that is closed or broken raises nothing: an exception would end the training.
    """
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except (AttributeError, OSError, ValueError):  # there is none; it is broken; it is closed
        return
