"""The themes: the contrast of each text, and differences that people who see few colours see."""

import itertools

import numpy as np
import pytest

from gradscope_tui.theme import THEMES, role_styles, theme_for

LEAST = {"gradscope-contrast": 7.0}
"""WCAG 2.2: 4.5 for text (AA), 7 for enhanced contrast (AAA)."""

GREYED = {"dim", "header"}


def luminance(rgb):
    """The relative luminance of WCAG 2.2."""
    part = np.array(rgb) / 255
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def colours_of(theme):
    """The text and ground of each role, on the screen's ground and at the cursor."""
    variables = {**theme.variables, "primary": theme.primary, "foreground": theme.foreground}
    grounds = [hex_rgb(theme.background), hex_rgb(variables["gs-cursor"])]
    for role, style in role_styles(variables).items():
        text = style.color.get_truecolor() if style.color else hex_rgb(theme.foreground)
        own = style.bgcolor.get_truecolor() if style.bgcolor else None
        for ground in [own] if own else grounds:
            yield role, tuple(text), tuple(ground)


def hex_rgb(text):
    return tuple(int(text[i : i + 2], 16) for i in (1, 3, 5))


@pytest.mark.parametrize("theme", THEMES, ids=lambda theme: theme.name)
def test_every_text_has_enough_contrast_on_the_screen_and_at_the_cursor(theme):
    least = LEAST.get(theme.name, 4.5)
    low = [
        (role, round(contrast(text, ground), 2))
        for role, text, ground in colours_of(theme)
        if contrast(text, ground) < (3.0 if role in GREYED and least < 7 else least)
    ]
    assert low == []


def seen_without_red_or_green(rgb, missing):
    """A colour as people without red or green cones see it (Viénot, Brettel and Mollon 1999)."""
    to_lms = np.array(
        [[17.8824, 43.5161, 4.11935], [3.45565, 27.1554, 3.86714], [0.0299566, 0.184309, 1.46709]]
    )
    linear = (np.array(rgb) / 255) ** 2.2
    lms = to_lms @ linear
    if missing == "red":
        lms[0] = 2.02344 * lms[1] - 2.52581 * lms[2]
    else:
        lms[1] = 0.494207 * lms[0] + 1.24827 * lms[2]
    return np.clip(np.linalg.solve(to_lms, lms), 0, 1) ** (1 / 2.2)


@pytest.mark.parametrize("missing", ["red", "green"])
def test_above_below_and_active_differ_without_red_or_green_cones(missing):
    theme = next(theme for theme in THEMES if theme.name == "gradscope-blue-orange")
    names = ("gs-above3", "gs-below3", "gs-above1", "gs-active")
    seen = [seen_without_red_or_green(hex_rgb(theme.variables[name]), missing) for name in names]
    for one, other in itertools.combinations(seen, 2):
        assert np.abs(one - other).max() > 0.15


def test_the_theme_is_chosen_by_name_or_by_the_terminals_ground():
    assert theme_for({"GRADSCOPE_THEME": "contrast"}).name == "gradscope-contrast"
    assert theme_for({"GRADSCOPE_THEME": "light", "COLORFGBG": "15;0"}).name == "gradscope-light"
    assert theme_for({"COLORFGBG": "0;15"}).name == "gradscope-light"
    assert theme_for({"GRADSCOPE_THEME": "unknown"}).name == "gradscope-dark"
