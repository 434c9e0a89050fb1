"""The table of statistics of one layer, and the lines of its parameters."""
# ruff: noqa: RUF001 - the signs are meant

import numpy as np
import pytest

from gradscope.columns import Block
from gradscope.protocol import Layer, Parameter
from gradscope_tui.view import detail
from gradscope_tui.view.cell import text_of
from gradscope_tui.view.detail import about_lines, stats_lines

TITLES = ["norm", "σ", "mean", "|max|", "min", "max", "elements"]


def block_of(elements, *, is_full=False):
    """The statistics of one output, as a training would send them."""
    x = np.array(elements, np.float64)
    values = {
        "calls": 1,
        "count": len(x),
        "nan": 0,
        "posinf": 0,
        "neginf": 0,
        "sum": x.sum(),
        "sumsq": (x**2).sum(),
        "min": x.min(),
        "max": x.max(),
    }
    if is_full:
        values |= {"zero": (x == 0).sum(), "subnormal": 0}
    zero = np.zeros(1, np.uint32)
    columns = {
        name: np.array([value], np.float64 if name in ("sum", "sumsq", "min", "max") else np.uint64)
        for name, value in values.items()
    }
    return Block(("out",), zero, zero, np.zeros(1, np.uint8), columns)


def cells_of(block, width=118):
    """The words of the header, and of the one row of numbers."""
    header, row = stats_lines(block, 0, width)
    return text_of(header).split(), text_of(row).split()


@pytest.mark.parametrize("factor", [1e-150, 6.22e-13, 1e-3, 1.0, 12.0, 123.0, 1e9, 1e100])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_blank_is_between_all_numbers_and_the_sign_is_next_to_its_digits(factor, sign):
    x = sign * factor * np.array([1.0, 2.0, 3.0, 6.0])
    titles, numbers = cells_of(block_of(x))
    assert titles == TITLES
    reference = [
        np.linalg.norm(x / factor) * factor,
        (x / factor).std() * factor,
        x.mean(),
        abs(x).max(),
        x.min(),
        x.max(),
    ]
    assert numbers[0] == "output"
    assert [float(number) for number in numbers[1:7]] == pytest.approx(reference, rel=6e-3)
    assert numbers[7:] == ["4"]


@pytest.mark.parametrize("width", [40, 60, 78, 98, 118])
def test_a_narrow_table_has_fewer_columns_and_still_the_number_of_elements(width):
    titles, numbers = cells_of(block_of([1.0, 2.0]), width)
    assert titles == [*TITLES[: len(titles) - 1], "elements"]
    assert len(numbers) == len(titles) + 1


@pytest.mark.parametrize(("is_full", "shown"), [(False, "·"), (True, "2")])
def test_a_count_is_shown_as_a_count_and_as_a_dot_if_it_was_not_measured(monkeypatch, is_full, shown):
    monkeypatch.setattr(detail, "_COLUMNS", ("zero", "norm"))
    monkeypatch.setattr(detail, "_TITLES", ("zeros", "norm"))
    titles, numbers = cells_of(block_of([0.0, 0.0, 3.0, 4.0], is_full=is_full))
    assert titles == ["zeros", "norm", "elements"]
    assert numbers == ["output", shown, "5.00", "4"]


def test_a_layer_is_described_by_its_parameters():
    layer = Layer("fc", "Linear", (Parameter("bias", (3,), "torch.float32", False),))
    (line,) = about_lines(layer, 78)
    assert text_of(line).split() == ["bias", "3", "float32,", "3", "elements,", "frozen"]
    assert "no parameters" in text_of(about_lines(Layer("gelu", "GELU"), 78)[0])
