"""Describes an intervention in one line: `clip(max_norm=1) on fc1, fc2 at output, every 10 steps`."""

from collections.abc import Mapping, Sequence

from gradscope.catalogue import Value
from gradscope.protocol import Schedule, schedule_in_words

__all__ = ["describe"]

_NAMED = 5


def describe(
    action: str,
    arguments: Mapping[str, Value],
    layers: Sequence[str],
    site: str,
    schedule: Schedule,
) -> str:
    """Return a description in one line: action, layers, site, schedule."""
    given = ", ".join(f"{name}={_plain(value)}" for name, value in arguments.items())
    names = [name or "the whole model" for name in layers]
    rest = len(names) - _NAMED
    where = ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
    when = schedule_in_words(schedule)
    return f"{action}({given}) on {where} at {site}" + (f", {when}" if when else "")


def _plain(value: Value) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
