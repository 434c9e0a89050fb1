"""Patterns over layer names: a glob in which `*` also matches dots, or a regular expression after `re:`."""

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence

from gradscope.errors import UnknownLayerError, UsageError

__all__ = ["check_pattern", "match_names"]


def match_names(patterns: object, names: Sequence[str]) -> list[str]:
    """Return the names that match a pattern, or any of several patterns, in the order of `names`.

    A pattern is a glob (`blocks.*.fc1`), a string `re:` followed by a regular expression, or a compiled
    regular expression. `""` is the model itself. Raises UnknownLayerError with the most similar names
    if a pattern matches nothing, and UsageError if a pattern has another type.
    """
    several = [patterns] if isinstance(patterns, str | re.Pattern) else patterns
    if not isinstance(several, Iterable):
        raise UsageError(
            f"layers must be a glob, a regex, or a sequence of them, got {type(patterns).__name__}"
        )
    matched: set[str] = set()
    for pattern in several:
        checked = check_pattern(pattern)
        found = [name for name in names if _is_match(checked, name)]
        if not found:
            raise UnknownLayerError(_no_match(checked, names))
        matched.update(found)
    return [name for name in names if name in matched]


def check_pattern(pattern: object) -> str | re.Pattern[str]:
    """Return the pattern. Raises UsageError if it is not a string or contains an invalid regex."""
    if isinstance(pattern, re.Pattern):
        return pattern
    if not isinstance(pattern, str):
        raise UsageError(f"a layer pattern must be a string or a compiled regex, got {pattern!r}")
    if pattern.startswith("re:"):
        try:
            re.compile(pattern[3:])
        except re.error as error:
            raise UsageError(f"{pattern!r} is not a valid regular expression: {error}") from error
    return pattern


def _is_match(pattern: str | re.Pattern[str], name: str) -> bool:
    if isinstance(pattern, re.Pattern):
        return pattern.search(name) is not None
    if pattern.startswith("re:"):
        return re.search(pattern[3:], name) is not None
    return name == pattern or (name != "" and fnmatch.fnmatchcase(name, pattern))


def _no_match(pattern: str | re.Pattern[str], names: Sequence[str]) -> str:
    text = pattern if isinstance(pattern, str) else pattern.pattern
    near = difflib.get_close_matches(text, names, n=3, cutoff=0.3) or [n for n in names if n][:3]
    return f"no layer matches {text!r}; the nearest of {len(names)} are: {', '.join(near)}"
