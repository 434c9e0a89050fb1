"""Which texts can be the name of a run."""

from typing import Final

from gradscope.errors import UsageError

__all__ = ["check_run_name"]

_LIMIT: Final = 80


def check_run_name(name: str) -> str:
    """Return the name. Raises UsageError if it cannot be used as a file name and as an argument of a command."""
    is_plain = name.strip() == name and name and not name.startswith((".", "-")) and name.isprintable()
    if not is_plain or len(name) > _LIMIT or any(c in name for c in "/\\\0"):
        raise UsageError(
            f"name must be 1 to {_LIMIT} printable characters without slashes, not beginning "
            f"with a dot or a dash, got {name!r}"
        )
    return name
