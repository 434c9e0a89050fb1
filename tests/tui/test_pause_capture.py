"""The pause, one step and captured tensors on the screen."""

import msgspec
import numpy as np
import pytest
from test_app import open_app

from gradscope.client import CapturedArray
from gradscope.client.tensor_art import picture_lines
from gradscope.protocol import PauseState
from gradscope_tui.view.capture_text import captured_text

pytestmark = pytest.mark.slow


def sent(command):
    return command.action, command.lease_s


def notifications(ui):
    """Return the texts of the notifications."""
    return [each.message for each in ui.app._notifications]


def paused(run, revision, step, left_s=42.0):
    state = PauseState(step, left_s, "me", "break-1, loss > 10: loss is 11")
    return msgspec.structs.replace(run.interventions(revision, step), pause=state)


async def test_a_pause_is_confirmed_counted_down_renewed_and_ended(monkeypatch):
    async with open_app() as ui:
        await ui.press("P")
        await ui.until(lambda: ui.app.screen.id == "pause", advance=False)
        await ui.press("escape")
        assert ui.source.commands == []
        await ui.press("P")
        await ui.until(lambda: ui.app.screen.id == "pause", advance=False)
        await ui.press("enter")
        await ui.until(lambda: [sent(c) for c in ui.source.commands] == [("pause", 60.0)])
        ui.source.put(paused(ui.source._watched, 7, 30))
        bar = ui.app.main.query_one("#bar")
        await ui.until(lambda: "PAUSED before step 30" in ui.line("#bar"), advance=False)
        assert bar.has_class("is-active")
        assert "resumes in 4" in ui.line("#bar")
        assert "loss is 11" in ui.line("#bar")
        ui.app.pause_lease._renewed_s -= 21.0  # what twenty seconds bring
        await ui.until(lambda: len(ui.source.commands) == 2, advance=False)
        assert sent(ui.source.commands[1]) == ("pause", 60.0)
        await ui.press(".")
        await ui.until(lambda: ui.source.commands[-1].action == "step_once", advance=False)
        await ui.press("P")
        await ui.until(lambda: sent(ui.source.commands[-1]) == ("resume", None), advance=False)
        ui.source.put(ui.source._watched.interventions(8, 31))
        await ui.until(lambda: not bar.has_class("is-active"), advance=False)


async def test_a_pause_of_another_viewer_is_shown_and_not_renewed():
    async with open_app() as ui:
        ui.source.put(paused(ui.source._watched, 7, 30))
        await ui.until(lambda: "PAUSED" in ui.line("#bar"), advance=False)
        ui.app.pause_lease._renewed_s -= 100.0
        for _ in range(5):
            ui.app.update_view()
        assert ui.source.commands == []


@pytest.mark.parametrize("key", ["P", ".", "v"])
async def test_readonly_pauses_and_captures_nothing(key):
    async with open_app(is_readonly=True) as ui:
        await ui.press(key)
        assert ui.app.screen is ui.app.main
        assert ui.source.commands == []


async def test_one_step_of_a_running_training_shows_what_to_do():
    async with open_app() as ui:
        await ui.press(".")
        assert "Press P to pause it" in notifications(ui)[0]
        assert ui.source.commands == []


async def test_the_layers_whole_tensor_is_shown_with_its_channels():
    async with open_app() as ui:
        asked = []

        def capture(layers, what):
            asked.append((layers, what))
            array = np.zeros((2, 3), np.float32) if what == "activation" else np.ones((3,), np.float32)
            return [CapturedArray(20, layers, what, "", array, "float32", array.shape)]

        ui.source.capture = capture
        await ui.press("j", "v")
        await ui.until(lambda: ui.app.screen.id == "capture", advance=False)
        await ui.until_shown("activation of tokens, step 20: 2 x 3, float32", advance=False)
        await ui.until_shown("3 of 3 channels along dimension 1 are all zero", advance=False)
        await ui.press("g")
        await ui.until_shown("gradient of tokens", advance=False)
        assert asked == [("tokens", "activation"), ("tokens", "gradient")]
        await ui.press("escape")
        await ui.until(lambda: ui.app.screen is ui.app.main)


def test_the_largest_element_of_a_picture_is_the_brightest():
    assert picture_lines(np.diag([1.0, 1 / 3, 0.0]), 3, 3) == ["@  ", " - ", "   "]
    assert picture_lines(np.array([0.0, np.nan, 2.0]), 3, 3) == [" !@"]
    assert picture_lines(np.zeros((4, 4)), 2, 2) == ["  ", "  "]


def test_images_are_drawn_side_by_side():
    images = np.zeros((1, 3, 2, 2))
    images[0, 1] = 1.0
    assert picture_lines(images, 20, 2) == ["   @@   ", "   @@   "]


async def test_a_capture_of_a_paused_training_says_what_to_press():
    async with open_app() as ui:
        ui.source.capture = lambda layers, what: []
        ui.source.put(paused(ui.source._watched, 7, 30))
        await ui.until(lambda: "❚❚ paused" in ui.line("#status"), advance=False)
        await ui.press("v")
        await ui.until_shown("The training is paused: press . for one step.", advance=False)
        await ui.press("full_stop")
        await ui.until(lambda: ui.source.commands[-1].action == "step_once", advance=False)


def test_the_captured_output_of_the_model_has_a_name():
    array = np.zeros((2, 3), np.float32)
    found = [CapturedArray(20, "", "activation", "", array, "float32", array.shape)]
    assert captured_text(found, 40).startswith("activation of the model, step 20: 2 x 3, float32")
