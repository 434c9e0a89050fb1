"""Numbers as text."""

import pytest

from gradscope_tui.view.cell import fit
from gradscope_tui.view.numbers import (
    NUMBER_WIDTH,
    aligned,
    count,
    duration,
    percent,
    plain_number,
    scalar,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (0.0123456, "0.0123"),
        (0.00999, "9.99e-3"),
        (0.009999, "0.0100"),
        (999.4, "999"),
        (999.6, "1.00e3"),
        (123456.0, "1.23e5"),
        (1.2345e-10, "1.23e-10"),
        (-2.5, "-2.50"),
        (9.996, "10.0"),
        (1e300, "1.00e300"),
    ],
)
def test_numbers_have_three_significant_digits(value, text):
    assert plain_number(value) == text


@pytest.mark.parametrize("value", [1.0, 12.0, 123.0, 0.0123, 1.2e-5, 3.4e-10, 7.7e8, 0.0])
def test_decimal_points_are_aligned(value):
    text = aligned(value)
    assert len(text) == NUMBER_WIDTH
    point = text.find(".")
    assert point in (-1, 3)
    assert point == 3 or text[:3].strip().isdecimal()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (12, "12"),
        (9_876, "9,876"),
        (12_345, "12.3k"),
        (999_600, "1.0M"),
        (1_234_567, "1.2M"),
        (5e9, "5.0G"),
        (4e12, "4000G"),
    ],
)
def test_counts_are_short(value, text):
    assert count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0000031, "3 µs"),
        (0.25, "250 ms"),
        (3.2, "3 s"),
        (119, "119 s"),
        (240, "4 min"),
        (7500, "2 h 5 min"),
        (400_000, "4 days"),
    ],
)
def test_times_have_a_suitable_unit(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.31456, "2.315"),
        (0.001234, "0.001234"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Inf"),
        (1e-7, "1.000e-7"),
        (12345.6, "12,346"),
    ],
)
def test_a_loss_has_four_digits(value, text):
    assert scalar(value) == text


def test_a_fraction_is_written_in_per_cent():
    assert [percent(x) for x in (0.0184, 0.1234)] == ["1.8 %", "12 %"]


def test_text_with_wide_characters_is_fitted_in_cells():
    assert fit("blocks.0", 5) == "bloc…"
    assert fit("blocks.0", 5, keep_end=True) == "…ks.0"
    assert fit("层层层", 5) == "层层…"
    assert fit("ab", 4) == "ab  "


def test_control_characters_are_replaced():
    assert fit("\x1b[2Jevil\n", 12) == "�[2Jevil�   "
