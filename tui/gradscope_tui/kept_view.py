"""What the screen keeps between sessions, in `view.json` in the data directory: theme, order, and that it was used."""

import contextlib
from pathlib import Path

import msgspec

__all__ = ["KeptView", "read_view", "write_view"]


class KeptView(msgspec.Struct, frozen=True, omit_defaults=True):
    """`is_used`: the screen was open before, so the first hint is not shown again."""

    theme: str = ""
    sort: str = ""
    is_ascending: bool = False
    is_used: bool = False


def read_view(path: Path | None) -> KeptView:
    """Return the kept view; the defaults if there is none, or if it cannot be read."""
    if path is not None:
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode(path.read_bytes(), type=KeptView)
    return KeptView(is_used=path is None)


def write_view(path: Path | None, view: KeptView) -> None:
    """Keep a view. A directory that cannot be written is ignored: nothing depends on it."""
    if path is not None:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(msgspec.json.encode(view))
