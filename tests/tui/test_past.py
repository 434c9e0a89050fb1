"""Past steps of a live run: their numbers, and the line with the position."""

import numpy as np
import pytest
from synthetic_run import SyntheticRun
from test_app import SIZES, open_app
from test_breakpoints import store_of
from test_findings import event_of, finding

from gradscope_tui.store.timeline import Landmark, Timeline
from gradscope_tui.view.cell import text_of
from gradscope_tui.view.timeline import timeline_cells


def test_a_past_frame_has_the_numbers_of_its_step_also_the_counts_of_nan():
    run = SyntheticRun(broken={7: ("head", 12)})
    store = store_of(run, 20)
    until_seven = store_of(SyntheticRun(broken={7: ("head", 12)}), 8)
    frame, reference = store.past_frame(7), until_seven.frame()
    assert frame.measured.step == 7
    for name, values in reference.measured.values.items():
        assert np.array_equal(frame.measured.values[name], values, equal_nan=True)
        assert np.array_equal(frame.measured.nan[name], reference.measured.nan[name])
        assert np.array_equal(frame.measured.flags[name], reference.measured.flags[name])
    assert np.array_equal(frame.trend, reference.trend, equal_nan=True)
    assert frame.measured.nan["grad_norm"][store.tree.find("head")] == 12
    assert store.past_frame(20) is None
    assert store.past_steps() == list(range(20))


@pytest.mark.parametrize("width", [120, 80, 40])
def test_the_line_of_a_live_run_has_position_and_landmarks(width):
    marks = (Landmark(12, 2, "✖", "error: it broke"),)
    position, text = timeline_cells(
        Timeline((10, 11, 12, 13), 10, 13, 1, 11, marks, is_live=True), width
    )
    assert text_of(position).startswith(" ❚❚ step 11 of 10 to 13 ")
    assert "✖" in text_of(position)
    assert text_of(text).strip() == "next, at step 12: ✖ error: it broke"


@pytest.mark.slow
@SIZES
async def test_brackets_go_through_past_steps_and_braces_to_findings_and_interventions(size):
    async with open_app(size) as ui:
        run, store = ui.source._watched, ui.app.session.watched
        ui.source.put(event_of(run, finding(layers=("head",), since_step=4)))
        await ui.until(lambda: store.verdict.findings, advance=False)
        newest = store.newest.step
        await ui.press("left_square_bracket", "left_square_bracket")
        await ui.until_shown(f"❚❚ step {newest - 2}", advance=False)
        assert ui.app.presenter.frame.measured.step == newest - 2
        ui.source.advance(3)
        await ui.until(lambda: store.newest.step == newest + 3, advance=False)
        assert ui.app.presenter.frame.measured.step == newest - 2
        await ui.press("left_curly_bracket")
        await ui.until_shown("❚❚ step 4 ", advance=False)
        await ui.until_shown("✖ error never-zeroed", advance=False)
        await ui.press("left_curly_bracket")
        await ui.until(
            lambda: (
                [each.message for each in ui.app._notifications]
                == [
                    "No finding and no intervention begins before this step, in the steps that are kept."
                ]
            ),
            advance=False,
        )
        await ui.press("escape")
        await ui.until(lambda: not ui.app.presenter.is_frozen, advance=False)
        await ui.until(lambda: ui.app.presenter.frame.measured.step == newest + 3, advance=False)
        await ui.press("left_square_bracket", "right_square_bracket", "right_square_bracket")
        assert not ui.app.presenter.is_frozen, "after the newest step comes the live view"
