"""Keys of the person, from `keys.toml` in the data directory: `"layers.mark" = "m"`."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from gradscope_tui.keys import Key, name_of

__all__ = ["read_own_keys", "with_own_keys"]


def read_own_keys(path: Path | None, keys: Iterable[Key]) -> tuple[dict[str, str], str]:
    """Return the keys by the name of what they do, and what is wrong with the file; empty if nothing is.

    The names are results of `name_of`, such as `layers.mark` or `app.undo`. A key is a name of Textual; several
    are separated by commas.
    """
    if path is None or not path.exists():
        return {}, ""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return {}, f"{path} cannot be read, so the usual keys apply: {error}"
    names = {name_of(key) for key in keys}
    own = {name: value for name, value in found.items() if name in names and isinstance(value, str)}
    wrong = ", ".join(sorted(set(found) - set(own)))
    expected = 'expected lines such as "layers.mark" = "m"; the names are in the documentation'
    return own, f"{path}: not known, or without a text: {wrong}; {expected}" if wrong else ""


def with_own_keys(keys: Iterable[Key], own: Mapping[str, str]) -> tuple[Key, ...]:
    """Return the table of keys with those of the person."""
    return tuple(
        replace(key, keys=own[name_of(key)], shown=own[name_of(key)].partition(",")[0])
        if name_of(key) in own
        else key
        for key in keys
    )
