"""The help: every key, column and sign."""
# ruff: noqa: RUF001 - the signs are meant

from collections.abc import Sequence

from gradscope.catalogue import INTERVENTIONS
from gradscope_tui.keys import KEYS, Key, Owner
from gradscope_tui.store.measure import QUANTITIES

__all__ = ["help_text"]

_TITLES: tuple[tuple[Owner, str], ...] = (
    ("replay", "Recording"),
    ("list", "Layers and other lists"),
    ("layers", "Layers"),
    ("detail", "A layer in detail"),
    ("depth", "Depth"),
    ("findings", "Findings"),
    ("interventions", "Interventions"),
    ("main", "View"),
    ("app", "Everywhere"),
)

_SIGNS = (
    ("·", "not measured in this step"),
    ("Σ", "merged from the layers below"),
    ("M", "median of repeated blocks; the row below has the layer that differs most from its siblings"),
    ("~", "sampled: only some of the elements were read"),
    ("×", "still multiplied by the loss scale"),
    ("≠", "differs between ranks, but should be the same"),
    ("NaN 12", "12 elements are not a number (Inf: infinite)"),
    ("▲ ▼", "far above or below the layer's own past; a colour marks smaller distances"),
    ("◆ ◇", "an intervention is active, or pending"),
    ("●", "marked"),
    ("focus: …", "how often the layer in detail is measured while it is shown"),
)


def help_text(*, is_readonly: bool, is_replay: bool = False, keys: Sequence[Key] = KEYS) -> str:
    """Return the help as markup."""
    lines: list[str] = []
    for owner, title in _TITLES:
        if owner == "replay" and not is_replay:
            continue
        shown = [k for k in keys if k.owner == owner and not (k.changes and is_readonly)]
        if shown:
            lines += ["", f"[b]{title}[/b]"]
            lines += [_line(key.shown, key.meaning) for key in shown]
        if owner == "app" and not is_readonly:
            lines += [
                _line(f"i {each.key}", f"{each.name}: {each.menu}") for each in INTERVENTIONS.values()
            ]
    lines += ["", "[b]Columns[/b]"]
    lines += [_line(quantity.title, quantity.meaning) for quantity in QUANTITIES]
    lines += ["", "[b]Signs[/b]"]
    lines += [_line(sign, meaning) for sign, meaning in _SIGNS]
    return "\n".join(lines[1:])


def _line(left: str, right: str) -> str:
    return f"  [$primary]{left.replace('[', chr(92) + '['):<10}[/]  {right}"
