"""Comparing what is shown with a marked step, and with another recorded run at the same step."""
# ruff: noqa: RUF001 - the signs are meant

import numpy as np
import pytest
from synthetic_run import SyntheticRun
from test_app import SIZES, open_app
from test_breakpoints import store_of
from test_replay import open_replay, record

from gradscope_tui.view.cell import text_of
from gradscope_tui.view.compared import compared_line, other_cells, ratio_cell, ratio_of
from gradscope_tui.view.layout import NUMBER_CELL, RATIO_CELL, choose_columns


@pytest.fixture(scope="module")
def frames():
    run = SyntheticRun(broken={9: ("head", 3)}, unmeasured=frozenset({"norm"}))
    store = store_of(run, 10)
    return store.past_frame(2), store.past_frame(8), store.frame()


def test_the_ratio_is_that_of_the_two_numbers_and_nothing_if_one_is_unknown_or_not_finite(frames):
    then, now, broken = frames
    node = now.tree.find("tokens")
    for quantity in ("out_std", "grad_norm", "param_grad_norm", "update_ratio"):
        expected = now.measured.values[quantity][node] / then.measured.values[quantity][node]
        assert ratio_of(now, then, "tokens", quantity) == expected
    assert np.isnan(ratio_of(now, then, "norm", "grad_norm")), "not measured"
    assert np.isnan(ratio_of(broken, then, "head", "grad_norm")), "NaN elements"
    assert np.isnan(ratio_of(now, then, "nowhere", "grad_norm"))


def test_cells_have_their_widths_and_words_for_nan(frames):
    then, now, broken = frames
    for name in ("tokens", "norm", "head"):
        cells = other_cells(broken, name, "grad_norm")
        assert sum(len(cell.text) for cell in cells) == NUMBER_CELL
        assert len(ratio_cell(now, then, name, "grad_norm").text) == RATIO_CELL
    assert "NaN 3" in text_of(other_cells(broken, "head", "grad_norm"))


def test_one_layer_is_compared_in_one_line(frames):
    then, now, _ = frames
    line = text_of(compared_line(now, then, "tokens", "step 2", 200)).rstrip()
    ratio = ratio_of(now, then, "tokens", "grad_norm")
    assert line.startswith("compared with step 2: σ out ")
    assert f"(×{ratio:.2g})" in line


@pytest.mark.parametrize(("width", "quantities"), [(40, 1), (80, 1), (100, 2), (120, 3), (160, 4)])
def test_as_many_quantities_are_compared_as_fit(width, quantities):
    layout = choose_columns(width, is_compared=True)
    kinds = [column.kind for column, _ in layout.columns]
    assert kinds == ["name", *["number", "other", "ratio"] * quantities]
    if width >= 80:
        assert sum(each for _, each in layout.columns) + 3 == width


@pytest.mark.slow
@SIZES
async def test_the_shown_step_is_compared_with_a_marked_one(size):
    async with open_app(size) as ui:
        store = ui.app.session.watched
        await ui.press("M")
        marked = ui.app.presenter.reference.frame.measured.step
        await ui.until_shown(f"≠ compared with step {marked}", advance=False)
        ui.source.advance(marked + 5 - store.newest.step)
        await ui.until(lambda: ui.app.presenter.frame.measured.step == marked + 5, advance=False)
        await ui.until_shown("ratio", advance=False)
        series = store.ring.series("grad_norm", store.tree.find("tokens"))
        row = next(line for line in ui.text.splitlines() if " tokens" in line)
        assert f"×{series[-1] / series[-6]:.2g}" in row
        await ui.press("j", "enter")
        await ui.until_shown(f"compared with step {marked}: σ out", advance=False)
        await ui.press("escape", "M")
        await ui.until(lambda: "compared with" not in ui.text, advance=False)
        await ui.until_shown("trend", advance=False)


@pytest.mark.slow
@SIZES
async def test_two_recorded_runs_are_side_by_side_at_the_same_step_and_their_first_difference_is_marked(
    size, tmp_path
):
    one = record(tmp_path / "one.gradscope", SyntheticRun(run="one"))
    two = record(tmp_path / "two.gradscope", SyntheticRun(run="two", broken={60: ("head", 7)}))
    async with open_replay(one, size, step=30, against=two) as ui:
        await ui.until(lambda: "compared with two at step 30" in ui.text)
        await ui.until(lambda: "first difference: step 60, forward, head" in ui.text.replace("…", ""))
        assert "NaN 7" not in ui.text
        await ui.pilot.press("}", "}")
        await ui.until(lambda: "≠" in ui.app.main.timeline.text)
        await ui.until_step(60)
        await ui.until(lambda: "compared with two at step 60" in ui.text)
        await ui.pilot.press("G")
        await ui.until(lambda: "NaN 7" in ui.text)
        row = next(line for line in ui.text.splitlines() if "NaN 7" in line)
        assert row.split()[0] == "▌≠" or "≠" in row.split("head")[0]
        await ui.pilot.press("right")
        await ui.until(lambda: "compared with two at step 63" in ui.text)
