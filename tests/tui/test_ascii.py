"""The screen on terminals that have only ASCII."""

from pathlib import Path

import pytest
from rich.cells import cell_len
from synthetic_run import SyntheticRun, SyntheticSource

import gradscope_tui
from gradscope.catalogue import INTERVENTIONS
from gradscope.findings.text import SIGNS
from gradscope_tui.app import GradscopeApp
from gradscope_tui.ascii_filter import ASCII_SIGNS, needs_ascii

SOURCES = sorted(Path(gradscope_tui.__file__).parent.rglob("*.py"))


def test_every_sign_of_the_screen_has_a_replacement_of_one_cell():
    texts = [path.read_text(encoding="utf-8") for path in SOURCES]
    texts += [*SIGNS.values(), *(spec.short + spec.menu for spec in INTERVENTIONS.values())]
    signs = {char for text in texts for char in text if not char.isascii()}
    assert {char for char in signs if ord(char) not in ASCII_SIGNS} == set()
    assert all(cell_len(chr(sign)) == len(plain) == 1 for sign, plain in ASCII_SIGNS.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [(), ("6",), ("6", "e"), ("j", "enter"), ("j", "i", "c"), ("question_mark",), ("4",), ("2",)],
)
async def test_all_that_reaches_the_terminal_is_ascii(monkeypatch, keys):
    monkeypatch.setenv("GRADSCOPE_ASCII", "1")
    app = GradscopeApp(SyntheticSource(SyntheticRun(), past=20))
    async with app.run_test(size=(120, 32)) as pilot:
        while app.presenter.frame is None or app.presenter.frame.measured.step < 19:
            await pilot.pause(0.02)
        await pilot.press(*keys)
        app.update_view()
        await pilot.pause(0.1)
        lines = ["".join(s.text for s in strip) for strip in app.screen._compositor.render_strips()]
    assert [line for line in lines if not line.isascii()] == []
    assert {len(line) for line in lines} == {120}
    assert "|| ?" not in "\n".join(lines)


@pytest.mark.parametrize(
    ("environ", "is_needed"),
    [
        ({}, False),
        ({"LANG": "C"}, False),
        ({"LANG": "en_US.UTF-8", "TERM": "xterm-256color"}, False),
        ({"LANG": "de_DE.utf8@euro"}, False),
        ({"LANG": "de_DE.ISO-8859-1"}, True),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "de_DE.ISO-8859-15"}, True),
        ({"LANG": "en_US.UTF-8", "TERM": "linux"}, True),
        ({"TERM": "linux", "GRADSCOPE_ASCII": "0"}, False),
        ({"GRADSCOPE_ASCII": "1"}, True),
    ],
)
def test_ascii_is_used_if_the_terminal_or_the_locale_has_nothing_else(environ, is_needed):
    assert needs_ascii(environ) == is_needed
