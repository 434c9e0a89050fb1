"""Sparklines and plots, as text."""

import numpy as np
import pytest

from gradscope_tui.store.gaps import with_gaps
from gradscope_tui.view.plots.braille import draw_plot
from gradscope_tui.view.plots.sparkline import sparkline


def array(*values):
    return np.array(values, float)


@pytest.mark.parametrize(
    ("values", "width", "text"),
    [
        ((1, 10, 100), 3, "▁▄▇"),
        ((1, 1, 1), 3, "▄▄▄"),
        ((1, 1.05), 2, "▄▄"),
        ((), 3, "   "),
        ((5,), 3, "  ▄"),
        ((1, np.nan, 100), 3, "▁ ▇"),
        ((1, np.inf, 100), 3, "▁!▇"),
        ((0, 1, 100), 3, "▁▁▇"),
        ((np.nan, np.nan), 2, "  "),
        ((1, 2, 3, 1000), 2, "▁▇"),
    ],
)
def test_sparklines_show_ratios_and_never_hide_what_is_missing(values, width, text):
    assert sparkline(array(*values), width) == text


def test_a_plain_sparkline_shows_differences():
    assert sparkline(array(-1, 0, 1), 3, is_log=False) == "▁▄▇"


def test_missing_steps_are_a_gap():
    steps = np.array([0, 1, 2, 3, 40, 41, 42])
    assert np.isnan(with_gaps(steps, np.ones(7))).tolist() == [False] * 4 + [True] + [False] * 3


def test_a_change_of_pace_is_not_a_gap():
    steps = np.array([0, 1, 2, 3, 8, 13, 18, 23])
    assert not np.isnan(with_gaps(steps, np.ones(8))).any()


def dots(plot):
    """The plot as booleans, (4 * height, 2 * width)."""
    bits = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])
    codes = np.array([[0 if c == " " else ord(c) - 0x2800 for c in line] for line in plot.lines])
    return (codes[:, None, :, None] & bits[None, :, None, :] > 0).reshape(4 * len(codes), -1)


def test_a_straight_line_in_logarithms_is_a_straight_line_of_dots():
    plot = draw_plot(np.arange(16), np.exp(np.linspace(0, 5, 16)), 8, 4)
    assert (dots(plot) == np.flipud(np.eye(16, dtype=bool))).all()
    assert plot.least == pytest.approx(1.0)
    assert plot.greatest == pytest.approx(np.exp(5))
    assert (plot.first_step, plot.last_step) == (0, 15)


def test_no_line_is_drawn_across_a_gap():
    steps = np.array([0, 1, 2, 3, 12, 13, 14, 15])
    assert not dots(draw_plot(steps, np.ones(8), 8, 2))[:, 4:12].any()


def test_many_steps_are_drawn_as_their_median_and_a_spike_stays_visible():
    values = np.ones(1000)
    values[500] = 1000.0
    picture = dots(draw_plot(np.arange(1000), values, 10, 5))
    assert picture.sum() == 21
    assert picture[0].sum() == 1


def test_infinite_numbers_are_marked_in_their_column():
    plot = draw_plot(np.arange(16), np.where(np.arange(16) == 8, np.inf, 1.0), 8, 2)
    assert plot.bad == (4,)


@pytest.mark.parametrize("values", [(), (np.nan, np.nan), (0.0, 0.0)])
def test_without_data_or_room_nothing_is_drawn(values):
    assert draw_plot(np.arange(len(values)), array(*values), 8, 4) is None


def test_a_step_is_found_in_its_column():
    plot = draw_plot(np.arange(0, 160, 10), np.ones(16), 8, 2)
    assert [plot.column_of(s, 8) for s in (0, 150, 75, 151, -1)] == [0, 7, 4, None, None]
