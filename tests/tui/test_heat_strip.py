"""The heat strip as text: its lines, the places of the shares, and the limits of fp16."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradscope_tui.store.histograms import Shares
from gradscope_tui.view.cell import fit
from gradscope_tui.view.plots.heat_strip import _bands, draw_strip, in_words
from support.examples import examples


def shares_of(*steps, zero=0.0, nonfinite=0.0, at=None):
    """Return shares from a {exponent: share} for each step; None for a step that was not measured."""
    binades = np.zeros((len(steps), 64), np.float32)
    for i, step in enumerate(steps):
        if step is None:
            binades[i] = np.nan
        for exponent, share in (step or {}).items():
            binades[i, exponent + 47] = share
    unknown = np.isnan(binades[:, 0])
    return Shares(
        np.arange(len(steps)) if at is None else np.array(at),
        binades,
        np.where(unknown, np.nan, np.broadcast_to(zero, len(steps))).astype(np.float32),
        np.where(unknown, np.nan, np.broadcast_to(nonfinite, len(steps))).astype(np.float32),
    )


def text(shares, width=30, height=12):
    lines = draw_strip(shares, width, height)
    return ["".join(cell.text for cell in line).rstrip() for line in lines]


def test_each_binade_has_a_line_and_a_larger_share_a_denser_character():
    step = {3: 0.0005, 2: 0.002, 1: 0.02, 0: 0.1, -1: 0.8}
    assert text(shares_of(step, step, {0: 1.0})) == [
        "     2^3│..",
        "     2^2│░░",
        "     2^1│▒▒",
        "     2^0│▓▓█",
        "    2^-1│██",
        "         0  step 2",
    ]


def test_with_less_room_binades_share_a_line_and_their_shares_are_added():
    step = dict.fromkeys(range(-10, 2), 0.008)
    assert text(shares_of(step), height=7) == [
        "     2^0│▒",
        "    2^-2│▒",
        "    2^-4│▒",
        "    2^-6│▒",
        "    2^-8│▒",
        "   2^-10│▒",
        "         0  step 0",
    ]


def test_extra_lines_mark_the_limits_of_fp16():
    step = {17 - 1: 0.1, -13: 0.4, -15: 0.3, -25: 0.2}
    lines = text(shares_of(step), width=46, height=18)
    borders = [i for i, line in enumerate(lines) if "├" in line]
    assert [lines[i].strip("├┄ ") for i in borders] == [
        "fp16 largest 2^16",
        "fp16 least normal 2^-14",
        "fp16 least subnormal 2^-24",
    ]
    assert lines[0].startswith("   ≥2^16│▓")
    marked = [i for i, line in enumerate(lines) if line.endswith(("▓", "█"))]
    assert [sum(at > border for at in marked) for border in borders] == [3, 2, 1]


def test_a_limit_outside_the_strip_has_no_line():
    assert not any("fp16" in line for line in text(shares_of({-14: 0.5, 15: 0.5}), height=40))
    assert sum("fp16" in line for line in text(shares_of({-15: 0.5, 15: 0.5}), height=40)) == 1


def test_the_outer_lines_are_labelled_as_open_ranges():
    lines = text(shares_of({-47: 0.5, -46: 0.1, 16: 0.4}), height=90)
    assert lines[0] == "   ≥2^16│█"
    assert lines[-2] == "  <2^-46│█"


def test_zeros_and_nonfinite_elements_have_separate_lines():
    lines = text(shares_of({0: 0.5}, {0: 0.5}, zero=[0.0, 0.4], nonfinite=[0.1, 0.0]))
    assert [line.partition("│") for line in lines[:-1]] == [
        (" NaN Inf", "│", "!"),
        ("     2^0", "│", "██"),
        ("       0", "│", " █"),
    ]


def test_a_step_that_was_not_measured_is_marked_with_dots():
    assert text(shares_of({0: 1.0}, None, {0: 1.0}))[0] == "     2^0│█·█"


def test_missing_steps_are_a_gap():
    steps = [{0: 1.0}] * 7
    lines = text(shares_of(*steps, at=[0, 1, 2, 3, 40, 41, 42]))
    assert lines[0] == "     2^0│████ ███"
    assert lines[-1].split() == ["0", "step", "42"]


def test_the_newest_steps_are_shown_if_there_are_more_than_columns():
    lines = text(shares_of(*[{0: 1.0}] * 90, {1: 1.0}), width=19)
    assert lines == ["     2^1│         █", "     2^0│█████████", "         81  step …"]


@pytest.mark.parametrize("shares", [shares_of(), shares_of({}, {}), shares_of(None, None)])
def test_without_data_or_room_nothing_is_drawn(shares):
    assert draw_strip(shares, 40, 10) is None


@given(
    st.lists(
        st.none()
        | st.dictionaries(st.integers(-47, 16), st.sampled_from([1e-7, 0.01, 0.3]), max_size=20),
        max_size=60,
    ),
    st.integers(0, 90),
    st.integers(0, 40),
    st.sampled_from([0.0, 0.2]),
    st.sampled_from([0.0, 0.2]),
)
@examples(200)
def test_a_strip_of_any_size_fits_its_width_and_height(steps, width, height, zero, nonfinite):
    shares = shares_of(*steps, zero=zero, nonfinite=nonfinite)
    lines = draw_strip(shares, width, height)
    if lines is not None:
        assert len(lines) <= height
        for line in lines:
            assert len("".join(cell.text for cell in line)) == width


@given(st.sets(st.integers(0, 63), min_size=1), st.integers(1, 70))
@examples(300)
def test_every_used_binade_is_in_one_line_and_no_line_crosses_a_limit(used, room):
    is_used = np.zeros(64, bool)
    is_used[list(used)] = True
    bands = _bands(is_used, room)
    assert len(bands) <= room
    lines = [(band.least, band.greatest) for band in bands if not band.border]
    covered = [e for least, greatest in lines for e in range(least, greatest + 1)]
    assert sorted(covered) == list(range(min(used) - 47, max(used) - 46))
    for band in bands:
        if band.border:
            assert not any(least < band.least <= greatest for least, greatest in lines)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({0: 0.5, -3: 0.5}, "90 % in 2^-3 … 2^1; in fp16 all of them normal"),
        ({16: 0.25, 0: 0.75}, "90 % in 2^0 … 2^17; in fp16 25 % too large"),
        (
            {0: 0.9, -20: 0.08, -30: 0.0001},
            "90 % in 2^-20 … 2^1; in fp16 8.0 % subnormal, <0.1 % lost",
        ),
        ({-47: 1.0}, "90 % in 0 … 2^-46; in fp16 100 % lost"),
        ({}, "all zero or not finite"),
        (None, "not measured in the newest step"),
    ],
)
def test_the_newest_step_is_summarised_in_words(step, words):
    assert in_words(shares_of({5: 1.0}, step), 80) == words
    short = in_words(shares_of({5: 1.0}, step), 30)
    assert short == words.partition("; ")[2] or short == words


def test_neighbouring_cells_of_one_role_are_joined():
    (line, _) = draw_strip(shares_of(*[{0: 1.0}] * 20), 40, 10)
    assert len(line) <= 4
    assert fit("".join(cell.text for cell in line), 40) == "".join(cell.text for cell in line)
