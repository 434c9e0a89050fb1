"""Alerts, the pause, one step and captured tensors on the screen."""

import msgspec
import numpy as np
import pytest
from test_app import open_app
from textual.widgets import Static

from gradscope.client import CapturedArray
from gradscope.client.tensor_art import picture_lines
from gradscope.findings import Finding
from gradscope.protocol import AlertInfo, Event, PauseState
from gradscope_tui.view.capture_text import captured_text


def alert(run, step, rule="spike", layer="tokens", value=12.5):
    return Event(
        run=run.run,
        rank=0,
        step=step,
        time_s=1000.0 + step,
        level="warning",
        code=f"alert.{rule}",
        text=f"{layer}: gradient norm {value}, far above its past",
        alert=AlertInfo(rule, layer, "param_grad", value, 10.0, step, "event"),
    )


def sent(command):
    return command.action, command.lease_s


def notifications(ui):
    """Return the texts of the notifications."""
    return [each.message for each in ui.app._notifications]


async def test_alerts_have_a_tab_and_n_goes_to_the_next_one():
    async with open_app() as ui:
        await ui.press("2")
        await ui.until_shown("no rule has found a problem", advance=False)
        await ui.press("1")
        run = ui.source._watched
        ui.source.put(alert(run, 12), alert(run, 15, "dead", "head", 0.995), alert(run, 12))
        await ui.until(lambda: "Alerts 2" in ui.line("#tabs"))
        await ui.press("n")
        for words in ("spike", "12.5", "tokens: gradient norm 12.5", "dead", "0.995"):
            await ui.until_shown(words, advance=False)
        assert ui.app.main.alerts.cursor == 1
        await ui.press("N")
        assert ui.app.main.alerts.cursor == 0
        await ui.press("n")
        assert ui.app.main.alerts.cursor == 1
        await ui.press("N", "enter")
        await ui.until(lambda: ui.app.presenter.page == "detail")
        assert ui.app.main.detail.layer_name == "tokens"
        await ui.press("5")
        await ui.until_shown("tokens: gradient norm 12.5", advance=False)


async def test_without_alerts_n_shows_a_notification():
    async with open_app() as ui:
        await ui.press("n")
        assert notifications(ui) == ["No alerts in this run."]


async def test_the_whole_text_of_an_alert_is_below_the_list_although_it_has_no_layer():
    async with open_app((80, 24)) as ui:
        said = " ".join(f"word{i}" for i in range(40))
        about_the_loss = msgspec.structs.replace(alert(ui.source._watched, 12, "loss", ""), text=said)
        ui.source.put(about_the_loss)
        await ui.press("2")
        await ui.until_shown("word39", advance=False)
        below = ui.text.partition("───")[2]
        assert [word for word in below.split() if word.startswith("word")] == said.split()
        await ui.press("enter")
        await ui.until_shown("This alert does not belong to one layer.", advance=False)
        await ui.until_shown("word39", advance=False)
        assert ui.app.presenter.page == "alerts"


async def test_the_text_below_the_list_is_that_of_the_alert_at_the_cursor():
    async with open_app() as ui:
        run = ui.source._watched
        ui.source.put(alert(run, 12), alert(run, 15, "dead", "head", 0.995))
        await ui.press("2")
        whole_text = ui.app.main.query_one("#alert-text", Static)
        await ui.until(lambda: str(whole_text.content).startswith("head: "), advance=False)
        await ui.press("k")
        await ui.until(lambda: str(whole_text.content).startswith("tokens: "), advance=False)


async def test_a_rule_that_failed_is_an_alert_and_is_announced():
    async with open_app() as ui:
        said = "the rule dead failed (KeyError: 'x') and is switched off"
        run = ui.source._watched
        ui.source.put(run.event(20, "a snapshot was taken"), run.event(20, said, "warning"))
        await ui.until(lambda: "2 Alerts 1" in ui.line("#tabs"), advance=False)
        await ui.until(lambda: notifications(ui) == [said], advance=False)
        await ui.press("2")
        await ui.until_shown(said, advance=False)


def finding_event(run, step, code="never-zeroed", severity="error", layers=()):
    finding = Finding(
        code=code, severity=severity, message=f"{code} was found", cause="a cause", fix="a fix",
        found_step=step, since_step=0, layers=layers,
    )  # fmt: skip
    event = run.event(step, finding.message, "error" if severity == "error" else "warning")
    return msgspec.structs.replace(event, code=f"finding.{code}", finding=finding)


@pytest.mark.parametrize("size", [(120, 32), (80, 24)])
async def test_the_first_line_names_the_worst_finding_and_opens_the_list_with_cause_and_fix(size):
    async with open_app(size) as ui:
        assert not ui.app.main.verdict.display
        run = ui.source._watched
        ui.source.put(finding_event(run, 8, "eval-mode", "warning", ("tokens",)))
        await ui.until(lambda: ui.text.startswith(" warning eval-mode: eval-mode was found"))
        ui.source.put(finding_event(run, 9))
        await ui.until(
            lambda: ui.text.startswith(" error never-zeroed: never-zeroed was found (and 1 more)")
        )
        await ui.pilot.click("#verdict")
        for words in ("never-zeroed", "eval-mode", "why:  a cause", "next: a fix"):
            await ui.until_shown(words, advance=False)
        assert notifications(ui) == []
        await ui.press("k", "enter")
        await ui.until(lambda: ui.app.presenter.page == "detail")
        assert ui.app.main.detail.layer_name == "tokens"


async def test_a_hint_does_not_take_the_first_line():
    async with open_app() as ui:
        run = ui.source._watched
        ui.source.put(finding_event(run, 8, "frozen", "hint"), run.event(9, "later"))
        await ui.press("5")
        await ui.until_shown("later", advance=False)
        assert not ui.app.main.verdict.display


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
        assert notifications(ui)[0].endswith("The training is paused: press . for one step.")
        await ui.until(lambda: ui.app.screen.id == "capture", advance=False)


def test_the_captured_output_of_the_model_has_a_name():
    array = np.zeros((2, 3), np.float32)
    found = [CapturedArray(20, "", "activation", "", array, "float32", array.shape)]
    assert captured_text(found, 40).startswith("activation of the model, step 20: 2 x 3, float32")
