"""Which names a pattern means: a glob in which a star crosses dots, or a regex after `re:`."""

import difflib
import fnmatch
import re
from collections.abc import Sequence

from gradscope.errors import UnknownLayerError, UsageError

__all__ = ["check_pattern", "matching_names"]


def matching_names(pattern: str, names: Sequence[str]) -> list[str]:
    """Return the names that a pattern matches. Raises UnknownLayerError with the nearest where none."""
    found = [name for name in names if _is_match(pattern, name)]
    if not found:
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or [n for n in names if n][:3]
        raise UnknownLayerError(
            f"no layer matches {pattern!r}; the nearest of {len(names)} are: {', '.join(near)}"
        )
    return found


def check_pattern(pattern: str) -> str:
    """Return the pattern. Raises UsageError where it is a regular expression that is none."""
    if pattern.startswith("re:"):
        try:
            re.compile(pattern[3:])
        except re.error as error:
            raise UsageError(f"{pattern!r} is no regular expression: {error}") from error
    return pattern


def _is_match(pattern: str, name: str) -> bool:
    if pattern.startswith("re:"):
        return re.search(pattern[3:], name) is not None
    return name == pattern or (name != "" and fnmatch.fnmatchcase(name, pattern))
