"""The Depth tab: curves over the layers, and the map of layers and steps, as text."""

import numpy as np
import pytest
from synthetic_run import SyntheticRun, gpt_layers
from test_app import open_app

from gradscope_tui.view.cell import text_of
from gradscope_tui.view.plots.chain import chain_lines, mark_line
from gradscope_tui.view.plots.layer_map import LayerMap, map_lines
from gradscope_tui.view.plots.trend import AXIS, trend_lines

SIZES = pytest.mark.parametrize("size", [(120, 32), (80, 24)])


def names(count):
    return [f"l{i}" for i in range(count)]


def lines_of(values, width=60, height=10, chosen=None):
    return [
        *map(text_of, chain_lines("‖∇‖", names(len(values)), np.array(values), chosen, width, height))
    ]


def test_a_vanishing_gradient_is_a_slope_from_the_last_layer_to_the_first():
    lines = lines_of(np.logspace(-8, 0, 50))[1:]
    rows = [{x - AXIS for x, dots in enumerate(line) if ord(dots) > 0x2800} for line in lines]
    lowest = [min(row) for row in rows]
    assert lowest == sorted(lowest, reverse=True)
    assert (max(rows[0]), min(rows[-1])) == (49, 0)
    assert lines[0].startswith("    1.00┤")
    assert lines[-1].startswith(" 1.00e-8┤")


def test_the_title_names_the_layers_that_are_zero_or_not_finite_and_the_least():
    title = lines_of([1.0, 0.0, np.inf, 1e-6, np.nan, 3.0], width=120)[0]
    assert (
        title
        == "‖∇‖   1 not finite   zero l1   first 1.00, last 3.00   least 1.00e-6 l3   greatest 3.00 l5"
    )


def test_a_zero_a_nonfinite_and_an_unmeasured_layer_differ_in_the_curve():
    lines = lines_of([1.0, 2.0, 0.0, np.nan, np.inf, 3.0], width=AXIS + 1 + 11)[1:]
    assert [lines[-1][AXIS + 2 * i] for i in (2, 3)] == ["0", " "]
    assert lines[0][AXIS + 8] == "!"


def test_layers_that_are_all_zero_are_not_called_unmeasured():
    assert lines_of([0.0, 0.0])[1] == "  zero in 2"
    assert lines_of([np.nan, np.nan])[1] == "  not measured"
    flat = trend_lines("t", np.arange(3), np.zeros(3), {}, 60, 8)
    assert text_of(flat[1]) == "  zero in 3"


def test_a_layer_without_the_quantity_does_not_break_the_curve():
    with_relu = [x for value in np.linspace(1, 9, 20) for x in (value, np.nan)]
    dots = ["".join(line[AXIS:] for line in lines_of(with_relu)[1:])]
    columns = {i for line in lines_of(with_relu)[1:] for i, c in enumerate(line[AXIS:]) if c != " "}
    assert columns == set(range(len(columns)))
    assert dots


def test_findings_interventions_and_the_chosen_layer_are_at_their_places():
    line = text_of(mark_line(11, {0: ("✖", "above3"), 5: ("◆", "active")}, 10, AXIS + 1 + 11))
    assert line == "depth   └✖────◆────▲"


def map_of(values, height=20, width=60, chosen=None):
    values = np.array(values, float)
    steps = np.arange(10, 10 + len(values))
    shown = LayerMap("‖∇‖", tuple(names(values.shape[1])), steps, values)
    return [*map(text_of, map_lines(shown, chosen, width, height))]


def test_the_map_has_a_line_per_layer_and_a_column_per_step():
    lines = map_of([[1, 1e-3, np.nan, 0], [1, 1e-6, np.inf, 0]], chosen=1)
    assert [line.partition("│")[2] for line in lines[1:-1]] == ["▅▅", "▃▁", " !", "00"]
    assert lines[2].startswith("▌l1")
    assert lines[0].startswith("‖∇‖   ▁ 1e-6 ▄ 0.032 ▇ 1000")
    assert "10" in lines[-1]
    assert "step 11" in lines[-1]


def test_a_line_of_several_layers_shows_and_names_the_one_that_is_furthest_and_says_so():
    values = np.ones((3, 40))
    values[:, 13] = 1e-6
    lines = map_of(values, height=12, width=100)
    assert "4 layers a line: the furthest from the median" in lines[0]
    assert lines[4].startswith(" l13 ")
    assert lines[4].partition("│")[2] == "▁▁▁"
    assert all(line.partition("│")[2] == "▄▄▄" for i, line in enumerate(lines[1:-1], 1) if i != 4)


def test_missing_steps_are_a_blank_column():
    values, steps = np.ones((7, 1)), np.array([0, 1, 2, 3, 40, 41, 42])
    shown = LayerMap("‖∇‖", ("a",), steps, values)
    assert text_of(map_lines(shown, None, 60, 8)[1]).partition("│")[2] == "▄▄▄▄ ▄▄▄"


@pytest.mark.slow
@SIZES
async def test_the_depth_tab_chooses_a_layer_and_opens_its_detail(size):
    async with open_app(size, runs=[SyntheticRun(layers=gpt_layers(blocks=30))]) as ui:
        await ui.press("6")
        await ui.until_shown("gradient: norm at the output")
        await ui.press("l", "l", "l")
        assert ui.app.main.depth.layer_name == "blocks.0.attention.qkv"
        await ui.press("h", "pagedown")
        assert ui.app.main.depth.layer_name == "blocks.3.norm1"  # a tenth of 214 layers: 21
        await ui.press("e")
        await ui.until(lambda: "▄" in ui.text)
        await ui.press("greater_than_sign", "G", "g", "pageup", "less_than_sign", "e", "G", "enter")
        await ui.until(lambda: ui.app.presenter.page == "detail")
        assert ui.app.main.detail.layer_name == "head"


@pytest.mark.slow
async def test_an_intervention_from_the_depth_tab_is_on_its_layer_and_marked():
    async with open_app() as ui:
        await ui.press("6", "l", "i", "r", "enter")
        await ui.until(lambda: "1 active" in ui.line("#bar"))
        assert ui.source.commands[0].layers == ("positions",)
        await ui.press("l")
        await ui.until(lambda: "◆" in ui.app.main.query_one("#depth-marks").text)
