"""The app with a source in this process: keys are pressed and the text of the screen is checked."""

import asyncio
import time
from contextlib import asynccontextmanager

import msgspec
import pytest
from synthetic_run import SyntheticRun, SyntheticSource, gpt_layers
from textual.widgets import Static

from gradscope.errors import NothingToConnectError
from gradscope.protocol import Event, Ramp, Runs, Schedule
from gradscope_tui.app import GradscopeApp
from gradscope_tui.keys import KEYS
from gradscope_tui.screens.intervene import InterveneScreen
from gradscope_tui.screens.runs import RunsScreen

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0
SIZES = pytest.mark.parametrize("size", [(120, 32), (80, 24)], ids=["120x32", "80x24"])


class OpenApp:
    def __init__(self, app, pilot, source):
        self.app, self.pilot, self.source = app, pilot, source

    @property
    def text(self):
        """The whole screen as lines of text."""
        screen = self.app.screen
        lines = screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in line) for line in lines)

    @property
    def sentence(self):
        """The sentence of the form about the intervention."""
        return str(self.app.screen.query_one("#sentence", Static).content)

    def line(self, kind):
        return self.app.main.query_one(kind).text

    async def until(self, condition, *, advance=True):
        """Send steps until the condition holds."""
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"this took too long; the screen:\n{self.text}"
            if advance and self.source._watched:
                self.source.advance()
            await asyncio.sleep(0.03)

    async def until_shown(self, words, **how):
        await self.until(lambda: words in self.text, **how)

    async def press(self, *keys):
        await self.pilot.press(*keys)


@asynccontextmanager
async def open_app(size=(120, 32), runs=None, run=None, is_readonly=False, is_watched=True, **how):
    source = SyntheticSource(*(runs or [SyntheticRun()]), **{"past": 20, **how})
    app = GradscopeApp(source, run, is_readonly=is_readonly)
    async with app.run_test(size=size) as pilot:
        ui = OpenApp(app, pilot, source)
        if is_watched:
            await ui.until(lambda: app.session.watched and (app.session.watched.step or 0) >= 19)
            await ui.until_shown("tokens" if runs is None else "layers")
        yield ui


@SIZES
async def test_the_first_screen_shows_run_loss_layers_and_keys(size):
    async with open_app(size) as ui:
        await ui.until(lambda: "live" in ui.line("#status"))
        assert "gpt-7f3a" in ui.line("#status")
        assert "loss" in ui.line("#status")
        for words in ("(GPT)", "attention", "out‖", "Δw/w", "46 layers", "? help"):
            await ui.until_shown(words)
        assert len(ui.text.splitlines()) == size[1]


@SIZES
async def test_three_keys_after_the_layer_is_chosen_a_reversal_is_pending_and_then_active(size):
    async with open_app(size) as ui:
        await ui.press("j", "i", "r")
        await ui.until_shown("the gradient arriving at the output of tokens", advance=False)
        await ui.press("enter")
        await ui.until(lambda: "1 pending" in ui.line("#bar"), advance=False)
        assert ui.source.commands[0].arguments == {"alpha": 1.0}
        await ui.until(lambda: "1 active" in ui.line("#bar"))
        assert "reverse ×−1 on tokens, active since step 2" in ui.line("#bar")  # noqa: RUF001
        await ui.until_shown("◆")
        await ui.press("z")
        await ui.until(lambda: not ui.app.main.query_one("#bar").has_class("is-active"))


async def test_marked_layers_are_changed_together_and_all_removed_by_one_key():
    async with open_app() as ui:
        await ui.press("j", "space", "space", "i", "s")
        await ui.until_shown("2 layers (tokens, positions)", advance=False)
        await ui.press("0", "full_stop", "5", "tab", "right", "right")
        assert ui.sentence.endswith("is multiplied by 0.5 before it flows on; it ends after 100 steps.")
        await ui.press("enter")
        command = ui.source.commands[0]
        assert (command.action, command.layers) == ("install", ("tokens", "positions"))
        assert command.end_steps == 100
        await ui.until(lambda: "1 active" in ui.line("#bar"))
        await ui.press("X")
        await ui.until(lambda: not ui.app.presenter.states())


async def test_an_invalid_value_is_shown_and_not_sent():
    async with open_app() as ui:
        await ui.press("j", "i", "c", *["backspace"] * 8, "x", "enter")
        await ui.until_shown("max norm: expected a number of at least 0", advance=False)
        assert ui.source.commands == []
        await ui.press("escape")
        assert not isinstance(ui.app.screen, InterveneScreen)


async def test_the_suggested_clip_is_half_of_the_current_norm():
    async with open_app() as ui:
        await ui.press("j", "i", "c", "enter")
        store = ui.app.session.watched
        norms = store.ring.series("grad_norm", store.tree.find("tokens"))
        chosen = ui.source.commands[0].arguments["max_norm"]
        assert min(abs(2 * chosen / norm - 1) for norm in norms[-5:]) < 0.06  # two digits of it


async def test_the_form_of_the_scripts_own_function_has_a_field_for_each_parameter():
    async with open_app() as ui:
        await ui.press("j", "i")
        await ui.until_shown("amplify", advance=False)
        await ui.press("1")
        await ui.until_shown(
            "is changed by amplify with gain 2, times 1, is_off 0, kind sign", advance=False
        )
        await ui.press("backspace", "5", "tab", "backspace", "3", "tab", "right", "tab", "right")
        await ui.press(
            "tab", "right", "tab", *"8", "tab", *"2", "tab", *"gain=1:9:100", "tab", *"norm>1"
        )
        assert "gain 5, times 3, is_off 1, kind same" in ui.sentence
        assert ui.sentence.startswith("From step 8 on, ")
        assert "every 2 steps, gain 1 to 9 in 100 steps, while norm>1" in ui.sentence
        await ui.press("enter")
        command = ui.source.commands[0]
        assert command.arguments == {"gain": 5.0, "times": 3.0, "is_off": 1.0}
        assert command.choices == {"kind": "same"}
        assert (command.is_kept, command.site) == (True, "output")
        assert command.schedule == Schedule(8, None, 2, Ramp("gain", 1.0, 9.0, 100), "norm>1")


async def test_a_value_out_of_range_is_shown_and_not_sent():
    async with open_app() as ui:
        await ui.press("j", "i", "1", "1", "1", "enter")
        await ui.until_shown("gain: expected a number of at least 0 and at most 10", advance=False)
        assert ui.source.commands == []


async def test_the_site_is_chosen_in_the_form():
    async with open_app() as ui:
        await ui.press("j", "i", "x", "tab", "right", "right")
        assert "the gradient of the parameters of tokens" in ui.sentence
        await ui.press("enter")
        assert ui.source.commands[0].site == "params"


async def test_an_intervention_is_copied_as_python_and_its_history_is_listed():
    async with open_app() as ui:
        await ui.press("j", "i", "s", "enter")
        await ui.until(lambda: "1 active" in ui.line("#bar"))
        text = "scale-1 set by me from step 20 on: scale(factor=0.1) on tokens at output"
        change = Event(
            run="gpt-7f3a",
            rank=0,
            step=20,
            time_s=1.0,
            level="info",
            code="intervention.set",
            text=text,
        )
        ui.source.put(change)
        page = next(key.keys for key in KEYS if key.action == "show('interventions')")
        await ui.press(page)
        await ui.until_shown("history: who changed what")
        await ui.until_shown("scale-1 set by me from step 20 on")
        await ui.press("c")
        assert ui.app.clipboard.splitlines()[0] == "scope.scale('tokens', factor=0.1)"


async def test_an_intervention_is_edited_undone_and_redone_by_keys():
    async with open_app() as ui:
        active = lambda: [(s.action, s.arguments, s.site) for s in ui.app.presenter.states()]  # noqa: E731
        await ui.press("j", "i", "s", "0", "tab", "right", "tab", "right", "enter")
        await ui.until(lambda: "1 active" in ui.line("#bar"))
        before = active()
        await ui.press("4", "e")
        await ui.until_shown("enter replaces it", advance=False)
        await ui.press(*["backspace"] * 5, "3", "enter")
        after = [("scale", {"factor": 3.0}, before[0][2])]
        await ui.until(lambda: active() == after and "pending" not in ui.line("#bar"))
        await ui.press("z")
        await ui.until(lambda: active() == before and "pending" not in ui.line("#bar"))
        await ui.press("Z")
        await ui.until(lambda: active() == after)


@SIZES
async def test_the_detail_marks_where_an_intervention_began_and_ended_and_compares_before_and_since(
    size,
):
    async with open_app(size) as ui:
        await ui.press("j", "enter", "i", "s", "enter")
        await ui.until_shown("medians before → since: ‖∇out‖")
        plots = [ui.app.main.detail.query_one(kind) for kind in (".curve", "#loss")]
        assert ["◆" in plot.text for plot in plots] == [True, True]
        await ui.press("i", "c", "enter")
        await ui.until_shown("◆ 2. clip")
        await ui.press("z", "z")
        await ui.until(lambda: all("◇" in plot.text for plot in plots))


async def test_the_effect_on_the_loss_is_shown_although_no_more_steps_are_observed():
    async with open_app(runs=[SyntheticRun(every=10_000)]) as ui:
        await ui.press("j", "enter", "i", "s", "enter")
        await ui.until_shown("medians before → since: loss")
        assert ui.app.presenter.frame.measured.step == 0


async def test_a_refusal_is_shown_with_its_reason():
    async with open_app(refuse="control is off for this run") as ui:
        await ui.press("j", "i", "x", "enter")
        await ui.until(lambda: len(ui.app._notifications) == 1)
        assert ui.app.presenter.states() == ()
        await ui.press("5")
        await ui.until_shown("✕ stop on tokens: refused: control is off for this run")


async def test_with_readonly_keys_that_change_the_training_are_hidden_and_refused_in_words():
    async with open_app(is_readonly=True) as ui:
        for key in [key for key in KEYS if key.changes and key.owner in ("app", "main")]:
            ui.app.clear_notifications()
            await ui.press(key.keys.partition(",")[0])
            (shown,) = ui.app._notifications
            assert "opened read-only: it cannot change the training" in shown.message
        assert ui.app.screen is ui.app.main
        assert ui.source.commands == []
        assert "intervene" not in ui.line("#keys")
        assert "read-only" in ui.line("#status")
        commands = {c.title for c in ui.app.get_system_commands(ui.app.screen)}
        assert not commands & {key.meaning for key in KEYS if key.changes}
        assert {key.meaning for key in KEYS if key.action == "freeze"} <= commands


async def test_keys_fold_filter_sort_and_move():
    async with open_app() as ui:
        table = ui.app.main.table
        await ui.press("j", "j", "j", "h")
        await ui.until_shown("▸ blocks")
        assert table.listed == 6
        await ui.press("l", "G")
        assert table.cursor_layer == "head"
        await ui.until(lambda: "head" in ui.text and "tokens" not in ui.text, advance=False)
        await ui.press("g")
        await ui.until_shown("tokens", advance=False)
        await ui.press("slash", *"fc[12]")
        await ui.until_shown("blocks.3.mlp.fc2")
        assert "/fc[12] · 8 of 46 layers" in ui.line("#tabs")
        await ui.press("enter", "greater_than_sign", "greater_than_sign")
        await ui.until_shown("‖∇out‖ ▼")
        await ui.press("I")
        await ui.until_shown("‖∇out‖ ▲")
        await ui.press("escape", "less_than_sign", "less_than_sign", "g")
        await ui.until_shown("▾ blocks")


async def test_repeated_blocks_are_folded_in_a_large_model_and_unfold_at_the_layer_that_differs():
    async with open_app(runs=[SyntheticRun(layers=gpt_layers(blocks=30))]) as ui:
        table = ui.app.main.table
        await ui.until_shown("0–29 ×30 median")  # noqa: RUF001
        assert table.listed == 8
        await ui.press("j", "j", "j", "j", "j")
        furthest = table.cursor_layer
        assert table.chosen() == (furthest,)
        await ui.press("l")
        await ui.until(lambda: table.listed > 36)
        assert table.cursor_layer == furthest
        await ui.press("b")
        assert table.listed == 8
        await ui.press("g", "j", "j", "j", "j", "space")
        assert table.chosen() == tuple(f"blocks.{i}" for i in range(30))
        await ui.press("k", "enter")
        assert table.listed == 36
        await ui.press("h")
        assert (table.listed, table.cursor) == (8, 4)
        await ui.press("h")
        assert table.cursor_layer == "blocks"


async def test_an_invalid_filter_shows_the_reason_while_the_person_types():
    async with open_app() as ui:
        await ui.press("slash", "left_parenthesis")
        await ui.until_shown(
            "invalid regular expression: missing ), unterminated subpattern", advance=False
        )
        await ui.press("escape")
        assert ui.app.main.table.listed == 46


@SIZES
async def test_the_detail_shows_shapes_numbers_and_curves(size):
    async with open_app(size) as ui:
        await ui.press(*"jjjjjjj", "enter")
        await ui.until_shown("blocks.0.attention.qkv  Linear")
        for words in ("384 × 128  float32, 49.2k elements", "gradient norm", "param gradient", "4,096"):  # noqa: RUF001
            await ui.until_shown(words)
        assert any(0x2800 < ord(character) < 0x2900 for character in ui.text)
        await ui.press("i", "r", "enter")
        await ui.until_shown("◆ reverse")
        assert ui.source.commands[0].layers == ("blocks.0.attention.qkv",)
        await ui.press("escape")
        await ui.until_shown("(GPT)")


@SIZES
async def test_the_exponents_of_each_kind_replace_the_curves(size):
    async with open_app(size, runs=[SyntheticRun(is_full=True)]) as ui:
        await ui.until_shown("tokens")
        await ui.press(*"jjjjjjj", "enter", "e")
        await ui.until_shown("exponents: gradient")
        await ui.until_shown("share of elements")
        for words in ("in fp16", "fp16 least normal 2^-14", "2^-6│", "█", "step"):
            await ui.until_shown(words)
        assert not any(0x2800 < ord(character) < 0x2900 for character in ui.text)
        await ui.press("j")
        await ui.until_shown("exponents: parameters")
        await ui.press("k", "k")
        await ui.until_shown("exponents: output")
        await ui.press("k")
        await ui.until_shown("exponents: update Δw")
        await ui.press("e")
        await ui.until(lambda: any(0x2800 < ord(character) < 0x2900 for character in ui.text))
        assert ("exponents: update Δw" in ui.text) == (size[0] >= 100)


async def test_on_a_wide_screen_the_exponents_are_next_to_the_curves():
    async with open_app(runs=[SyntheticRun(is_full=True)]) as ui:
        await ui.until_shown("tokens")
        await ui.press(*"jjjjjjj", "enter")
        for words in ("gradient norm", "activation", "exponents: gradient", "fp16 least normal"):
            await ui.until_shown(words)
        assert "update Δw/w" not in ui.text


@SIZES
async def test_at_core_detail_the_exponents_are_shown_as_not_measured(size):
    async with open_app(size) as ui:
        await ui.press(*"jjjjjjj", "enter")
        await ui.until_shown("gradient norm")
        assert "exponents:" not in ui.text
        await ui.press("e")
        for words in ("exponents: gradient", "Not measured", 'gradscope.attach(model, detail="full")'):
            await ui.until_shown(words)


async def test_a_frozen_strip_does_not_change_while_steps_arrive():
    async with open_app(runs=[SyntheticRun(is_full=True)]) as ui:
        await ui.until_shown("tokens")
        await ui.press(*"jjjjjjj", "enter", "e", "p")
        step = ui.app.presenter.frame.measured.step
        await ui.until(lambda: ui.app.session.watched.step > step + 8)
        await ui.press("j")
        await ui.until_shown("exponents: parameters")
        assert f"step {step:,}" in ui.text.partition("exponents:")[2]
        assert f"step {step + 1:,}" not in ui.text.partition("exponents:")[2]


async def test_a_frozen_view_does_not_change_and_counts_the_new_steps():
    async with open_app() as ui:
        await ui.press("p")
        step = ui.app.presenter.frame.measured.step
        await ui.until(
            lambda: "frozen, 7 waiting" in ui.line("#status") or ui.app.session.watched.step > step + 60
        )
        assert "waiting" in ui.line("#status")
        assert ui.app.presenter.frame.measured.step == step
        await ui.press("p")
        await ui.until(lambda: ui.app.presenter.frame.measured.step > step)


async def test_only_rows_that_changed_are_drawn_again():
    async with open_app() as ui:
        table = ui.app.main.table
        await ui.until(lambda: table._view.layout.width == 119)  # the scroll bar takes one cell
        frame, states = ui.app.presenter.frame, ()
        table.show(frame, states)
        table.counters.clear()
        for _ in range(5):
            table.show(frame, states)
        assert table.counters["rows_dirty"] == 0
        lines = [table.render_line(y) for y in range(25)]
        table.counters.clear()
        assert [table.render_line(y) for y in range(25)] == lines
        assert table.counters == {"strips_reused": 24}  # the header is the 25th


@pytest.mark.timing
async def test_when_data_stops_the_screen_says_so_within_two_seconds():
    async with open_app() as ui:
        await ui.until(lambda: "● live" in ui.line("#status"))
        stopped = time.monotonic()
        await ui.until(lambda: "no new step for" in ui.line("#status"), advance=False)
        assert time.monotonic() - stopped < 2.5  # two seconds, and a machine that is busy
        await ui.until(lambda: "● live" in ui.line("#status"))


async def test_a_lost_link_and_its_return_are_shown_and_logged():
    async with open_app() as ui:
        ui.source.link.phase = "lost"
        await ui.until(lambda: "✕ link lost, reconnecting, data " in ui.line("#status"), advance=False)
        ui.source.link.phase = "up"
        await ui.press("5")
        await ui.until_shown("the link to the hub is up again")
        assert "the link to the hub was lost" in ui.text


async def test_an_ended_run_is_shown_as_ended():
    async with open_app() as ui:
        ui.source.put(Runs(runs=(SyntheticRun().info(is_live=False),)))
        await ui.until(lambda: "■ ended" in ui.line("#status"), advance=False)
        assert "(GPT)" in ui.text


async def test_without_a_hub_it_waits_and_connects_when_a_run_appears():
    source, has_hub = SyntheticSource(SyntheticRun(), past=3), []

    def connect(on_arrival):
        if not has_hub:
            raise NothingToConnectError("no hub is running at /tmp/x; start a training")
        return source(on_arrival)

    app = GradscopeApp(connect)
    async with app.run_test(size=(80, 24)) as pilot:
        ui = OpenApp(app, pilot, source)
        await ui.until_shown("gradscope run train.py", advance=False)
        assert "Waiting for a run" in ui.text
        has_hub.append(True)
        await ui.until_shown("46 layers")


async def test_several_runs_are_offered_and_one_is_chosen():
    runs = [SyntheticRun(run=name) for name in ("first", "second")]
    async with open_app(runs=runs, is_watched=False) as ui:
        await ui.until(lambda: isinstance(ui.app.screen, RunsScreen), advance=False)
        await ui.until_shown("second", advance=False)
        await ui.press("j", "enter")
        await ui.until_shown("(GPT)")
        assert ui.app.session.watched.run == "second"
        await ui.press("R")
        await ui.until(lambda: isinstance(ui.app.screen, RunsScreen))


async def test_the_screen_waits_for_the_named_run():
    async with open_app(run="later", is_watched=False) as ui:
        await ui.until_shown("Waiting for the run 'later'", advance=False)
        ui.source.runs["later"] = SyntheticRun(run="later")
        ui.source.put(Runs(runs=(SyntheticRun(run="later").info(),)))
        await ui.until(lambda: "later" in ui.line("#status"))


async def test_a_model_without_layers_has_an_empty_state():
    async with open_app(runs=[SyntheticRun(layers=())], is_watched=False) as ui:
        await ui.until_shown("GPT has no layers to show")


async def test_a_model_without_gradients_is_shown_with_dots():
    names = frozenset(layer.name for layer in SyntheticRun().layers)
    async with open_app(runs=[SyntheticRun(unmeasured=names)]) as ui:
        await ui.until_shown("tokens")
        row = next(line for line in ui.text.splitlines() if " tokens" in line)
        assert "·" in row


@pytest.mark.parametrize("size", [(60, 20), (40, 10)], ids=["60x20", "40x10"])
async def test_small_windows_keep_names_gradients_and_the_link_state(size):
    async with open_app(size) as ui:
        await ui.until(lambda: "live" in ui.line("#status"))
        assert "tokens" in ui.text
        await ui.press("j", "i", "r")
        await ui.until_shown("multiplied", advance=False)
        await ui.press("tab")
        await ui.until_shown("while I watch", advance=False)
        assert "viewer has disconnected." in " ".join(ui.text.replace("│", " ").split())
        await ui.press("enter")
        await ui.until_shown("◆")


async def test_a_window_too_small_says_so_and_recovers():
    async with open_app() as ui:
        await ui.pilot.resize_terminal(30, 8)
        await ui.until(lambda: "30 × 8 is too small" in ui.text)  # noqa: RUF001
        await ui.pilot.resize_terminal(100, 30)
        await ui.until_shown("(GPT)")


async def test_quitting_asks_only_while_a_change_of_this_viewer_is_in_force():
    async with open_app() as ui:
        await ui.press("j", "i", "r", "enter")
        await ui.until(lambda: "1 active" in ui.line("#bar"))
        await ui.press("q")
        await ui.until(lambda: ui.app.screen.id == "quit")
        await ui.press("escape")
        assert ui.app.is_running
        await ui.press("q", "r")
        await ui.until(lambda: ui.app._exit)
        assert ui.source._entries == []
        assert ui.app.return_code == 0


@pytest.mark.parametrize(("key", "code"), [("q", 0), ("ctrl+c", 130)])
async def test_quitting_without_changes_is_immediate(key, code):
    async with open_app() as ui:
        await ui.press(key)
        assert ui.app.return_code == code


async def test_ctrl_c_quits_also_from_a_form_and_a_second_one_does_not_ask():
    async with open_app() as ui:
        await ui.press("j", "i", "r", "enter")
        await ui.until(lambda: "1 active" in ui.line("#bar"))
        await ui.press("i", "r", "ctrl+c")
        await ui.until(lambda: ui.app.screen.id == "quit")
        await ui.press("ctrl+c")
        assert ui.app.return_code == 130


async def test_keys_open_the_help_and_the_palette_and_escape_closes_them():
    async with open_app() as ui:
        await ui.press("question_mark")
        assert ui.app.screen.id == "help"
        await ui.until_shown("next row", advance=False)
        await ui.press("escape", "colon")
        await ui.until(lambda: ui.app.screen is not ui.app.main)
        await ui.press(*"freeze")
        await ui.until_shown("freeze the view", advance=False)
        await ui.press("enter")
        await ui.until(lambda: ui.app.presenter.is_frozen)


async def test_interventions_are_listed_and_removed_one_by_one():
    async with open_app() as ui:
        for keys in (("j", "i", "r", "enter"), ("j", "i", "x", "enter")):
            await ui.press(*keys)
            await ui.until(lambda: not ui.app.changes.pending)
        await ui.press("4")
        await ui.until_shown("60 s after its viewer")
        await ui.press("j", "x")
        await ui.until(lambda: len(ui.app.presenter.states()) == 1)
        assert ui.app.presenter.states()[0].action == "reverse"


async def test_a_click_moves_the_cursor_and_selects_a_page():
    async with open_app() as ui:
        await ui.pilot.click("LayerTable", offset=(10, 4))
        assert ui.app.main.table.cursor_layer == "blocks"
        await ui.pilot.click("#tabs", offset=(ui.line("#tabs").index("5 Log"), 0))
        await ui.until(lambda: ui.app.presenter.page == "log")
        await ui.pilot.click("#keys", offset=(2, 0))


@pytest.mark.parametrize("theme", ["gradscope-light", "ansi-dark"])
async def test_another_theme_marks_nonfinite_numbers_with_a_background(theme):
    async with open_app() as ui:
        ui.app.theme = theme
        await ui.until_shown("(GPT)")
        style = ui.app.main.table.style_of("bad")
        assert style.bgcolor is not None


async def test_keys_work_while_many_past_steps_arrive():
    async with open_app(past=600) as ui:
        await ui.until(lambda: len(ui.app.session.watched.ring) == 600)
        assert ui.app.session.watched.counters["again"] == 0


async def test_one_layer_is_not_written_in_the_plural():
    run = SyntheticRun(layers=gpt_layers()[1:2])
    async with open_app(runs=[run], is_watched=False) as ui:
        await ui.until(lambda: ui.line("#tabs").endswith(" 1 layer "))


@SIZES
async def test_messages_that_this_viewer_dropped_are_shown_in_words(size):
    async with open_app(size) as ui:
        assert "dropped" not in ui.line("#status")
        ui.source.counters["inbox_dropped"] = 12
        await ui.until(lambda: "12 messages dropped by this viewer" in ui.line("#status"))
        ui.source.counters["inbox_dropped"] = 13
        await ui.until(lambda: "13 messages dropped by this viewer" in ui.line("#status"))
        logged = [entry.text for entry in ui.app.session.watched.journal]
        assert len(logged) == 1
        assert logged[0].startswith("12 messages dropped by this viewer, which was too slow: ")
        run = ui.source._watched
        ui.source.put(run.step(90, dropped=1), msgspec.structs.replace(run.step(91), body=b""))
        await ui.until(lambda: len(ui.app.session.watched.journal) == 3, advance=False)
        logged = [entry.text for entry in ui.app.session.watched.journal]
        assert logged[1] == "1 message dropped by the training, which could not send in time"
        assert logged[2] == "1 message could not be read by this viewer"


async def test_a_frame_that_is_made_after_a_redraw_is_shown_although_no_more_data_arrives():
    async with open_app(past=20) as ui:
        run, main = ui.source._watched, ui.app.main
        ui.app.session.feed(run.step(500))  # fed, but the frame is not made yet
        main.draw()
        ui.app.update_view()
        await ui.until(lambda: main.table._view.frame.measured.step == 500, advance=False)


async def test_from_200_columns_on_the_layer_at_the_cursor_is_in_detail_next_to_the_table():
    async with open_app((200, 60)) as ui:
        await ui.press("j")
        await ui.until_shown("tokens  Embedding")
        await ui.press(*"jjjjjjj")
        for words in (
            "blocks.0.attention.proj  Linear",
            "gradient norm",
            "activation",
            "loss",
            "param gradient",
            "intervention",
        ):
            await ui.until_shown(words)
        assert ui.app.main.focused is ui.app.main.table
        assert ui.source.focused == []
        await ui.pilot.resize_terminal(199, 60)
        await ui.until(lambda: "blocks.0.attention.proj  Linear" not in ui.text)


async def test_y_copies_the_row_of_each_page_and_the_verdict():
    async with open_app() as ui:
        await ui.press("j", "y")
        step = ui.app.presenter.frame.measured.step
        assert ui.app.clipboard.startswith(f"gpt-7f3a, step {step}: tokens (Embedding): ")
        assert "Δw/w" in ui.app.clipboard
        await ui.press("space", "space", "y")
        assert [line.split(": ")[1].split()[0] for line in ui.app.clipboard.splitlines()] == [
            "tokens",
            "positions",
        ]
        ui.app.session.watched.note("info", "a line of the log", 7)
        await ui.press("5")
        await ui.until_shown("a line of the log", advance=False)
        await ui.press("G", "y")
        assert ui.app.clipboard.endswith("7 a line of the log")
        await ui.press("Y")
        assert ui.app.clipboard.startswith("gpt-7f3a: healthy so far: nothing found")


async def test_the_detail_is_complete_although_no_more_data_arrives():
    async with open_app() as ui:
        await ui.press("j", "enter")
        for words in ("65 × 128  float32, 8,320 elements", "|max|", "loss"):  # noqa: RUF001
            await ui.until_shown(words, advance=False)
