"""What is kept between sessions: theme and order; the first hint; the title of the terminal."""

import pytest
from synthetic_run import SyntheticRun, SyntheticSource
from test_findings import event_of, finding

from gradscope_tui.app import GradscopeApp
from gradscope_tui.kept_view import KeptView, read_view, write_view
from gradscope_tui.store.run import RunStore
from gradscope_tui.terminal_title import title_of

HINT = "First time?"


async def session(path, *keys, theme=""):
    """Open the screen, press keys, close it; return whether the hint was shown, theme and order at the start."""
    app = GradscopeApp(SyntheticSource(SyntheticRun(), past=5), view_path=path)
    async with app.run_test(size=(120, 32)) as pilot:
        await pilot.pause()
        app.update_view()
        seen = app.main.query_one("#hint").display, app.theme, app.main.table.order.sort
        await pilot.press(*keys)
        if keys:
            app.update_view()
            assert not app.main.query_one("#hint").display
        if theme:
            app.theme = theme
    return seen


@pytest.mark.slow
async def test_theme_and_order_are_kept_and_the_hint_is_shown_once(tmp_path):
    path = tmp_path / "new" / "view.json"
    assert await session(path, "greater_than_sign", theme="gradscope-contrast") == (
        True,
        "gradscope-dark",
        "",
    )
    assert await session(path) == (False, "gradscope-contrast", "out_std")


@pytest.mark.slow
async def test_without_a_file_nothing_is_kept_and_no_hint_is_shown():
    assert await session(None) == (False, "gradscope-dark", "")


@pytest.mark.parametrize("content", [b"", b"[", b'{"theme": 3}', b'{"sort": "none", "x": 1}'])
def test_a_file_that_cannot_be_used_is_ignored(tmp_path, content):
    path = tmp_path / "view.json"
    path.write_bytes(content)
    assert read_view(path).theme == ""


def test_a_view_is_read_as_it_was_written_and_a_folder_that_cannot_be_made_is_ignored(tmp_path):
    view = KeptView("gradscope-light", "grad_norm", is_ascending=True, is_used=True)
    write_view(tmp_path / "view.json", view)
    assert read_view(tmp_path / "view.json") == view
    write_view(tmp_path / "view.json" / "below a file", view)


def test_the_title_names_the_run_and_its_worst_finding():
    run = SyntheticRun(run="gpt\x1b[2J")
    store = RunStore(run.run)
    assert title_of(None) == "gradscope"
    assert title_of(store) == "gradscope gpt�[2J"
    store.feed(event_of(run, finding("dead-units", "warning", ("tokens",))))
    assert title_of(store) == "gradscope gpt�[2J: ▲ dead-units"
