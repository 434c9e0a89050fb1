"""The themes: dark, light, high contrast, and blue and orange for colour-blind people; the palette of all widgets.

Few colours have a meaning: amber to red is above the usual values of a layer, blue to violet is below
them, filled red is not finite, filled magenta is an intervention. Everything else is grey or plain.
"""

from collections.abc import Mapping

from rich.style import Style
from textual.color import Color
from textual.theme import Theme

from gradscope_tui.view.cell import Role

__all__ = ["DARK", "LIGHT", "THEMES", "palette", "role_styles", "theme_for"]

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
    "gs-spark": "#68a3b7",
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
    "gs-above1": "#7d6010",
    "gs-above2": "#9f4e0a",
    "gs-above3": "#bd2f18",
    "gs-below1": "#2b67a2",
    "gs-below2": "#2a50c4",
    "gs-below3": "#6437d0",
    "gs-bad": "#c9303f",
    "gs-spark": "#206c82",
    "gs-active": "#a81673",
    "gs-alarm": "#b3267e",
    "gs-good": "#28713c",
    "gs-warning": "#8c5900",
    "gs-cursor": "#dfe6ef",
    "gs-line": "#eceef0",
}

_CONTRAST = {
    "gs-dim": "#c8ced8",
    "gs-faint": "#8a93a3",
    "gs-merged": "#e2e6ee",
    "gs-above1": "#ffe08a",
    "gs-above2": "#ffb65c",
    "gs-above3": "#ff9b85",
    "gs-below1": "#a8d4ff",
    "gs-below2": "#8fbaff",
    "gs-below3": "#c7b6ff",
    "gs-bad": "#a80015",
    "gs-spark": "#7fdcf5",
    "gs-active": "#ffa6dc",
    "gs-alarm": "#8a0061",
    "gs-good": "#8ff0a4",
    "gs-warning": "#ffd24a",
    "gs-cursor": "#002a55",
    "gs-line": "#101010",
}

# The colours of Okabe and Ito (2008), lighter where a dark ground needs it: orange is above, blue below.
_BLUE_ORANGE = {
    **_DARK,
    "gs-above1": "#f0e442",
    "gs-above2": "#e69f00",
    "gs-above3": "#ff8c42",
    "gs-below1": "#9ad4f5",
    "gs-below2": "#56b4e9",
    "gs-below3": "#4a9fe0",
    "gs-bad": "#a34700",
    "gs-active": "#ffe3f1",
    "gs-alarm": "#8f4470",
    "gs-good": "#56b4e9",
    "gs-warning": "#e69f00",
}


def _theme(
    name: str, colours: dict[str, str], primary: str, foreground: str, grounds: tuple[str, str, str]
) -> Theme:
    """Return a theme. `grounds`: the background colours of the screen, of cards, and of fields."""
    background, surface, panel = grounds
    return Theme(
        name=name,
        primary=primary,
        accent=colours["gs-active"],
        warning=colours["gs-warning"],
        error=colours["gs-above3"],
        success=colours["gs-good"],
        foreground=foreground,
        background=background,
        surface=surface,
        panel=panel,
        dark=colours is not _LIGHT,
        variables=colours,
    )


DARK = _theme("gradscope-dark", _DARK, "#6fb3c8", "#d6dbe4", ("#12151b", "#171b23", "#1e2430"))
LIGHT = _theme("gradscope-light", _LIGHT, "#206c82", "#23272f", ("#fbfbf9", "#f4f4f1", "#e9ebec"))
THEMES = (
    DARK,
    LIGHT,
    _theme("gradscope-contrast", _CONTRAST, "#7fdcf5", "#ffffff", ("#000000", "#000000", "#1a1a1a")),
    _theme(
        "gradscope-blue-orange", _BLUE_ORANGE, "#6fb3c8", "#d6dbe4", ("#12151b", "#171b23", "#1e2430")
    ),
)


def palette(*, is_dark: bool) -> dict[str, str]:
    """Return the palette for a theme that does not define it."""
    return dict(_DARK if is_dark else _LIGHT)


def theme_for(environ: Mapping[str, str]) -> Theme:
    """Return the theme that GRADSCOPE_THEME names; else the light one if COLORFGBG says that the terminal is light."""
    chosen = environ.get("GRADSCOPE_THEME", "")
    named = next((theme for theme in THEMES if theme.name.removeprefix("gradscope-") == chosen), None)
    background = environ.get("COLORFGBG", "").rpartition(";")[2]
    return named or (LIGHT if background in {"7", "15"} else DARK)


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
