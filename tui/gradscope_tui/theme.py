"""Two themes, for dark and light terminals, and the palette of all widgets.

Few colours have a meaning: amber to red is above the usual values of a layer, blue to violet is below
them, filled red is not finite, filled magenta is an intervention. Everything else is grey or plain.
"""

from collections.abc import Mapping

from rich.style import Style
from textual.color import Color
from textual.theme import Theme

from gradscope_tui.view.cell import Role

__all__ = ["DARK", "LIGHT", "palette", "role_styles", "theme_for"]

_DARK = {
    "gs-dim": "#7b8494",
    "gs-faint": "#4a5261",
    "gs-merged": "#a9b1bf",
    "gs-above1": "#e3c78a",
    "gs-above2": "#f0a35e",
    "gs-above3": "#ff7a5c",
    "gs-below1": "#8fb9e8",
    "gs-below2": "#6f9bf0",
    "gs-below3": "#9a86ff",
    "gs-bad": "#c9303f",
    "gs-spark": "#5596ab",
    "gs-active": "#ff8fd0",
    "gs-alarm": "#b3267e",
    "gs-good": "#83c995",
    "gs-warning": "#f0b45e",
    "gs-cursor": "#28303f",
    "gs-line": "#1a1f29",
}

_LIGHT = {
    "gs-dim": "#6d7480",
    "gs-faint": "#b9bec6",
    "gs-merged": "#565d69",
    "gs-above1": "#8a6a12",
    "gs-above2": "#b4590b",
    "gs-above3": "#c8321a",
    "gs-below1": "#2f6fae",
    "gs-below2": "#2a50c4",
    "gs-below3": "#6437d0",
    "gs-bad": "#c9303f",
    "gs-spark": "#23758c",
    "gs-active": "#a81673",
    "gs-alarm": "#b3267e",
    "gs-good": "#2d7d43",
    "gs-warning": "#9a6200",
    "gs-cursor": "#dfe6ef",
    "gs-line": "#eceef0",
}

DARK = Theme(
    name="gradscope-dark",
    primary="#6fb3c8",
    accent="#ff8fd0",
    warning="#f0b45e",
    error="#e2555f",
    success="#83c995",
    foreground="#d6dbe4",
    background="#12151b",
    surface="#171b23",
    panel="#1e2430",
    dark=True,
    variables=_DARK,
)

LIGHT = Theme(
    name="gradscope-light",
    primary="#23758c",
    accent="#a81673",
    warning="#9a6200",
    error="#c9303f",
    success="#2d7d43",
    foreground="#23272f",
    background="#fbfbf9",
    surface="#f4f4f1",
    panel="#e9ebec",
    dark=False,
    variables=_LIGHT,
)


def palette(*, is_dark: bool) -> dict[str, str]:
    """Return the palette for a theme that does not define it."""
    return dict(_DARK if is_dark else _LIGHT)


def theme_for(environ: Mapping[str, str]) -> Theme:
    """Return the light theme if COLORFGBG says that the terminal's background is light."""
    background = environ.get("COLORFGBG", "").rpartition(";")[2]
    return LIGHT if background in {"7", "15"} else DARK


# The theme variable of each role, and its style: b bold, i italic, r white text on it, g background only.
_ROLES: dict[Role, tuple[str, str]] = {
    "normal": ("foreground", ""),
    "dim": ("gs-dim", ""),
    "header": ("gs-dim", "b"),
    "title": ("primary", "b"),
    "container": ("foreground", "b"),
    "merged": ("gs-merged", "i"),
    "sampled": ("gs-merged", "i"),
    "above1": ("gs-above1", ""),
    "above2": ("gs-above2", "b"),
    "above3": ("gs-above3", "b"),
    "below1": ("gs-below1", ""),
    "below2": ("gs-below2", "b"),
    "below3": ("gs-below3", "b"),
    "bad": ("gs-bad", "rb"),
    "spark": ("gs-spark", ""),
    "active": ("gs-active", "b"),
    "alarm": ("gs-alarm", "rb"),
    "pending": ("gs-active", "i"),
    "marked": ("primary", "b"),
    "good": ("gs-good", ""),
    "warning": ("gs-warning", "b"),
    "chosen": ("gs-cursor", "gb"),
    "key": ("primary", "b"),
}


def role_styles(variables: Mapping[str, str]) -> dict[Role, Style]:
    """Return the style of every role, without a background unless the role has one.

    Textual's component classes do the same, but with 20 roles in 10 widgets they take 0.1 s at the start.
    """
    return {
        role: _style_of_role(Color.parse(variables[name]), how) for role, (name, how) in _ROLES.items()
    }


def _style_of_role(color: Color, how: str) -> Style:
    is_bold, is_italic = ("b" in how) or None, ("i" in how) or None
    if "r" in how:
        return Style(color="#ffffff", bgcolor=color.rich_color, bold=is_bold)
    if "g" in how:
        return Style(bgcolor=color.rich_color, bold=is_bold)
    return Style(color=color.rich_color, bold=is_bold, italic=is_italic)
