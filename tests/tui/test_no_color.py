"""With NO_COLOR there is no colour on any page, and signs and words have what colours say elsewhere."""

import pytest
from synthetic_run import SyntheticRun
from test_app import SIZES, open_app
from test_findings import event_of, finding

pytestmark = pytest.mark.slow


def colours(ui):
    """Return all colours on the screen that are not grey."""
    strips = ui.app.screen._compositor.render_strips()
    styles = [segment.style for strip in strips for segment in strip if segment.style]
    found = [each.triplet for style in styles for each in (style.color, style.bgcolor) if each]
    return {each for each in found if each and not each.red == each.green == each.blue}


@SIZES
async def test_no_page_and_no_form_has_a_colour_and_each_state_has_its_sign(size, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    run = SyntheticRun(broken={10: ("head", 12)})
    async with open_app(size, runs=[run]) as ui:
        ui.source.put(event_of(run, finding(layers=("head",), since_step=10)))
        await ui.until_shown("✖ error never-zeroed")
        await ui.press("j", "i", "x", "enter")
        await ui.until_shown("◆")
        await ui.press("G")
        await ui.until_shown("NaN 12")
        for keys in ("2", "3", "4", "5", "6", "1", "enter", "B", "escape", "W", "escape", "?"):
            await ui.press(keys)
            ui.app.update_view()
            await ui.pilot.pause()
            assert colours(ui) == set(), f"after {keys}"


async def test_the_same_pages_have_colours_otherwise(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    async with open_app() as ui:
        assert colours(ui)
