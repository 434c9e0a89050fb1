"""Every key of the help does what it says: for each line of the table, a key press and what it must change."""

import asyncio

import pytest
from synthetic_run import SyntheticRun, gpt_layers
from test_app import open_app
from test_findings import event_of, finding

from gradscope_tui.keys import EXPECTED_KEYS, KEYS
from gradscope_tui.view.help_text import help_text
from gradscope_tui.view.rows import RowOrder

pytestmark = pytest.mark.slow

PAGES = {
    "layers": "1",
    "list": "1",
    "depth": "6",
    "findings": "2",
    "interventions": "4",
    "detail": "1",
    "main": "1",
    "app": "1",
}
OWNERS = {"detail": ["j", "enter"], "findings": ["g"]}
CHANGE = ["j", "i", "x", "enter", "advance"]
BEFORE = {
    "redo": [*CHANGE, "z", "advance"],
    "undo": CHANGE,
    "remove_all": CHANGE,
    "move(-1)": ["G"],
    "page(-1)": ["G"],
    "jump(0)": ["G"],
    "layers fold": ["j", "j", "j"],
    "layers unfold": ["j", "j", "j", "h"],
    "findings fold": ["j", "l"],
    "findings unfold": ["j"],
    "finding(-1)": ["2", "G"],
    "go_back": ["2"],
    "show('layers')": ["2"],
    "invert": ["greater_than_sign"],
}
"""What to press before a key, so that there is something to do for it; by action, or by owner and action."""

QUIT = {"leave(0)", "leave(130)"}
COPIES = {"copy_row", "copy_verdict", "app.copy_python"}


def state_of(ui):
    """Everything that a key may change: what is on the screen without the numbers, commands, clipboard, toasts."""
    app, table = ui.app, ui.app.main.table
    return {
        "page": app.presenter.page,
        "screens": [type(screen).__name__ for screen in app.screen_stack],
        "cursors": (
            table.cursor,
            app.main.findings.cursor,
            app.main.interventions.cursor,
            app.main.depth.layer_name,
        ),
        "table": (table.order, set(table.marked), table.listed),
        "filter": app.main._filter.is_open,
        "frozen": app.presenter.is_frozen,
        "detail": (app.main.detail._is_on_exponents, app.main.detail._kind),
        "depth": (app.main.depth._is_map, app.main.depth._quantity),
        "commands": len(ui.source.commands),
        "clipboard": app.clipboard,
        "toasts": len(app._notifications),
        "listed findings": len(app.main.findings._listed),
        "exit": app._exit,
    }


async def press(ui, keys):
    for key in keys:
        if key == "advance":
            await ui.until(lambda: not ui.app.changes.pending and "pending" not in ui.line("#bar"))
        else:
            await ui.press(key)
    ui.app.update_view()
    await ui.pilot.pause()


async def reset(ui, owner):
    """Return to the state of a new screen, with an intervention for its page."""
    app, table = ui.app, ui.app.main.table
    while len(app.screen_stack) > 1:
        await ui.press("escape")
    app.clear_notifications()
    app.copy_to_clipboard("")
    if app.presenter.is_frozen:
        app.presenter.freeze()
    table.order, table.marked, table.folded = RowOrder(), set(), set()
    table._unfolded_repeats = {"blocks.0"}
    app.main.findings._unfolded = set()
    app.main.depth._is_map, app.main.depth.layer_name = False, None
    await press(ui, ["1", "escape"])
    table._show_again()
    await press(ui, ["g"])
    if owner == "interventions" and not app.presenter.states():
        await press(ui, CHANGE)


async def until_changed(ui, before):
    for _ in range(100):
        if state_of(ui) != before:
            return True
        await asyncio.sleep(0.03)
        ui.app.update_view()
    return False


@pytest.mark.parametrize("owner", PAGES)
async def test_each_key_of_the_help_does_something_where_the_help_says(owner):
    async with open_app(runs=[SyntheticRun(layers=gpt_layers(blocks=6), is_full=True)]) as ui:
        run = ui.source._watched
        for code, layers in (
            ("eval-mode", ("tokens",)),
            ("learning-rate-too-high", ()),
            ("loss-spike", ("tokens",)),
        ):
            ui.source.put(event_of(run, finding(code, "warning", layers)))
        idle = []
        for key in (key for key in KEYS if key.owner == owner and key.action not in QUIT):
            for name in key.keys.split(","):
                await reset(ui, owner)
                await press(ui, [PAGES[owner], *OWNERS.get(owner, [])])
                await press(ui, BEFORE.get(f"{owner} {key.action}", BEFORE.get(key.action, [])))
                before = state_of(ui)
                await ui.press(name)
                if not await until_changed(ui, before):
                    idle.append((name, key.meaning))
                assert key.action not in COPIES or ui.app.clipboard
        assert idle == []


@pytest.mark.parametrize("name", ["q", "ctrl+c"])
async def test_the_keys_that_quit_do(name):
    async with open_app() as ui:
        await ui.press(name)
        assert ui.app._exit


def test_every_key_is_in_the_help_and_in_the_palette():
    text = help_text(is_readonly=False, is_replay=True)
    for key in KEYS:
        assert key.meaning in text


async def test_a_key_without_a_meaning_is_answered_with_the_key_that_is_looked_for():
    async with open_app() as ui:
        await ui.press("u")
        assert [each.message for each in ui.app._notifications] == [
            "u does nothing here: z undoes the last change, Z repeats it."
        ]
        await ui.press("K")
        assert "K does nothing here: ? lists all keys." in {
            each.message for each in ui.app._notifications
        }
        ui.app.clear_notifications()
        await ui.press("slash", *"uK", "escape", "j", "?")
        assert len(ui.app._notifications) == 0


def test_no_key_is_expected_that_means_something_on_every_page():
    everywhere = {name for key in KEYS if key.owner in ("app", "main") for name in key.keys.split(",")}
    assert not everywhere & set(EXPECTED_KEYS)
