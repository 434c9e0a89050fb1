"""Keys of the person, from a file."""

from pathlib import Path

import pytest
from synthetic_run import SyntheticRun, SyntheticSource
from textual.widgets import Static

from gradscope_tui.app import GradscopeApp
from gradscope_tui.keys import KEYS, name_of
from gradscope_tui.own_keys import read_own_keys, with_own_keys


def test_each_key_has_a_name_of_its_own():
    names = [name_of(key) for key in KEYS]
    assert len(set(names)) == len(names)
    assert {
        "layers.mark",
        "app.undo",
        "main.show_log",
        "list.move_back_1",
        "interventions.edit_chosen",
    } <= set(names)


@pytest.mark.parametrize(
    ("content", "own", "words"),
    [
        ('"layers.mark" = "m"\n', {"layers.mark": "m"}, ""),
        (
            '"layers.mark" = "m"\n"layers.eat" = "x"\n',
            {"layers.mark": "m"},
            "not known, or without a text: layers.eat",
        ),
        ('"layers.mark" = 3\n', {}, "not known, or without a text: layers.mark"),
        ("[[", {}, "cannot be read, so the usual keys apply"),
    ],
)
def test_a_file_is_used_as_far_as_it_can_be(tmp_path, content, own, words):
    path = tmp_path / "keys.toml"
    path.write_text(content)
    found, problem = read_own_keys(path, KEYS)
    assert found == own
    assert words in problem
    assert bool(words) == bool(problem)


def test_without_a_file_the_table_is_as_it_was(tmp_path):
    assert read_own_keys(tmp_path / "none.toml", KEYS) == ({}, "")
    assert with_own_keys(KEYS, {}) == KEYS


@pytest.mark.slow
async def test_own_keys_work_and_are_in_the_key_line_and_the_help(tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text('"layers.mark" = "f2"\n"app.help" = "f3"\n"app.nothing" = "f4"\n')
    app = GradscopeApp(SyntheticSource(SyntheticRun(), past=5), keys_path=path)
    async with app.run_test(size=(120, 32)) as pilot:
        while app.presenter.frame is None or app.presenter.frame.measured.step < 4:
            await pilot.pause(0.02)
        app.update_view()
        assert "f2 mark" in app.main.keys.text
        await pilot.press("j", "space")
        assert app.main.table.marked == set()
        await pilot.press("f2")
        assert app.main.table.marked == {"tokens"}
        await pilot.press("f3")
        assert "f2          mark the layer" in str(app.screen.query_one(Static).content)
        assert any("app.nothing" in each.message for each in app._notifications)


def test_the_documentation_has_the_name_of_every_key():
    page = (Path(__file__).parents[2] / "docs" / "keys.md").read_text(encoding="utf-8")
    missing = [name_of(key) for key in KEYS if f"| `{name_of(key)}` |" not in page]
    assert missing == []
    assert [key.meaning for key in KEYS if key.meaning not in page] == []
