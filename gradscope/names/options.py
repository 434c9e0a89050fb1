"""Checks the names of keyword arguments that a function passes on, which Python does not check."""

import difflib
from collections.abc import Iterable

from gradscope.errors import UsageError

__all__ = ["check_options"]


def check_options(given: Iterable[str], known: Iterable[str], of: str) -> None:
    """Raise UsageError with all known names, the nearest first, if a name is unknown.

    of: what takes the options, for the message, such as "clip".
    """
    options = list(known)
    for name in given:
        if name not in options:
            near = difflib.get_close_matches(name, options, n=3, cutoff=0.4)
            rest = [each for each in options if each not in near]
            raise UsageError(f"{of} has no option {name!r}; its options are {', '.join(near + rest)}")
