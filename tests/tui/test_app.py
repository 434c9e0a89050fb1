"""The app at a desk of its own: a source in this process, keys pressed, and what is on the screen."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest
from synthetic_run import SyntheticRun, SyntheticSource
from textual.widgets import Static

from gradscope.errors import NothingToConnectError
from gradscope.protocol import Event, Ramp, Runs, Schedule
from gradscope_tui.app import GradscopeApp
from gradscope_tui.keys import KEYS
from gradscope_tui.screens.help import HelpScreen
from gradscope_tui.screens.intervene import InterveneScreen
from gradscope_tui.screens.main import InterventionBar, KeyLine, StatusLine, TabLine
from gradscope_tui.screens.quit import QuitScreen
from gradscope_tui.screens.runs import RunsScreen
from gradscope_tui.widgets.empty_state import EmptyState

DEADLINE_S = 15.0
SIZES = pytest.mark.parametrize("size", [(120, 32), (80, 24)], ids=["120x32", "80x24"])


class Desk:
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
        """What the form says that it will do."""
        return str(self.app.screen.query_one("#sentence", Static).content)

    def line(self, kind):
        return self.app.main.query_one(kind).text

    async def until(self, condition, *, advance=True):
        """Let steps come until the condition holds."""
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
async def desk(size=(120, 32), runs=None, run=None, is_readonly=False, is_watched=True, **how):
    source = SyntheticSource(*(runs or [SyntheticRun()]), **{"past": 20, **how})
    app = GradscopeApp(source, run, is_readonly=is_readonly)
    async with app.run_test(size=size) as pilot:
        one = Desk(app, pilot, source)
        if is_watched:
            await one.until(lambda: app.session.watched and (app.session.watched.step or 0) >= 19)
            await one.until_shown("tokens" if runs is None else "layers")
        yield one


@SIZES
async def test_the_first_screen_shows_run_loss_layers_and_keys(size):
    async with desk(size) as one:
        await one.until(lambda: "live" in one.line(StatusLine))
        assert "gpt-7f3a" in one.line(StatusLine)
        assert "loss" in one.line(StatusLine)
        for words in ("(GPT)", "attention", "out‖", "Δw/w", "46 layers", "? help"):
            await one.until_shown(words)
        assert len(one.text.splitlines()) == size[1]


@SIZES
async def test_from_the_start_to_an_active_reversal_in_five_keys(size):
    async with desk(size) as one:
        await one.press("j", "i", "r")
        await one.until_shown("the gradient arriving at the output of tokens", advance=False)
        await one.press("enter")
        await one.until(lambda: "1 pending" in one.line(InterventionBar), advance=False)
        assert one.source.commands[0].arguments == {"alpha": 1.0}
        await one.until(lambda: "1 active" in one.line(InterventionBar))
        assert "reverse ×−1 on tokens, active since step 2" in one.line(InterventionBar)  # noqa: RUF001
        await one.until_shown("◆")
        await one.press("z")
        await one.until(lambda: not one.app.main.query_one(InterventionBar).has_class("is-active"))


async def test_marked_layers_are_changed_together_and_all_removed_by_one_key():
    async with desk() as one:
        await one.press("j", "space", "space", "i", "s")
        await one.until_shown("2 layers (tokens, positions)", advance=False)
        await one.press("0", "full_stop", "5", "tab", "right", "right")
        assert one.sentence.endswith(
            "is multiplied by 0.5 before it flows on; it ends after 100 steps."
        )
        await one.press("enter")
        command = one.source.commands[0]
        assert (command.action, command.layers) == ("install", ("tokens", "positions"))
        assert command.end_steps == 100
        await one.until(lambda: "1 active" in one.line(InterventionBar))
        await one.press("X")
        await one.until(lambda: not one.app.presenter.states())


async def test_an_invalid_value_is_shown_and_not_sent():
    async with desk() as one:
        await one.press("j", "i", "c", *["backspace"] * 8, "x", "enter")
        await one.until_shown("max norm: expected a number of at least 0", advance=False)
        assert one.source.commands == []
        await one.press("escape")
        assert not isinstance(one.app.screen, InterveneScreen)


async def test_the_suggested_clip_is_half_of_the_current_norm():
    async with desk() as one:
        await one.press("j", "i", "c", "enter")
        store = one.app.session.watched
        norms = store.ring.series("grad_norm", store.tree.find("tokens"))
        chosen = one.source.commands[0].arguments["max_norm"]
        assert min(abs(2 * chosen / norm - 1) for norm in norms[-5:]) < 0.06  # two digits of it


async def test_the_form_of_the_scripts_own_function_has_a_field_for_each_parameter():
    async with desk() as one:
        await one.press("j", "i")
        await one.until_shown("amplify", advance=False)
        await one.press("1")
        await one.until_shown(
            "is changed by amplify with gain 2, times 1, is_off 0, kind sign", advance=False
        )
        await one.press("backspace", "5", "tab", "backspace", "3", "tab", "right", "tab", "right")
        await one.press(
            "tab", "right", "tab", *"8", "tab", *"2", "tab", *"gain=1:9:100", "tab", *"norm>1"
        )
        assert "gain 5, times 3, is_off 1, kind same" in one.sentence
        assert one.sentence.startswith("From step 8 on, ")
        assert "every 2 steps, gain 1 to 9 in 100 steps, while norm>1" in one.sentence
        await one.press("enter")
        command = one.source.commands[0]
        assert command.arguments == {"gain": 5.0, "times": 3.0, "is_off": 1.0}
        assert command.choices == {"kind": "same"}
        assert (command.is_kept, command.site) == (True, "output")
        assert command.schedule == Schedule(8, None, 2, Ramp("gain", 1.0, 9.0, 100), "norm>1")


async def test_a_value_out_of_range_is_shown_and_not_sent():
    async with desk() as one:
        await one.press("j", "i", "1", "1", "1", "enter")
        await one.until_shown("gain: expected a number of at least 0 and at most 10", advance=False)
        assert one.source.commands == []


async def test_the_site_is_chosen_in_the_form():
    async with desk() as one:
        await one.press("j", "i", "x", "tab", "right", "right")
        assert "the gradient of the parameters of tokens" in one.sentence
        await one.press("enter")
        assert one.source.commands[0].site == "params"


async def test_an_intervention_is_copied_as_python_and_its_history_is_listed():
    async with desk() as one:
        await one.press("j", "i", "s", "enter")
        await one.until(lambda: "1 active" in one.line(InterventionBar))
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
        one.source.put(change)
        page = next(key.keys for key in KEYS if key.action == "show('interventions')")
        await one.press(page)
        await one.until_shown("history: who changed what")
        await one.until_shown("scale-1 set by me from step 20 on")
        await one.press("c")
        assert one.app.clipboard.splitlines()[0] == "scope.scale('tokens', factor=0.1)"


async def test_a_refusal_is_shown_with_its_reason():
    async with desk(refuse="control is off for this run") as one:
        await one.press("j", "i", "x", "enter")
        await one.until(lambda: len(one.app._notifications) == 1)
        assert one.app.presenter.states() == ()
        await one.press("5")
        await one.until_shown("✕ stop on tokens: refused: control is off for this run")


async def test_readonly_hides_and_does_nothing():
    async with desk(is_readonly=True) as one:
        await one.press("i", "z", "X")
        assert one.app.screen is one.app.main
        assert "intervene" not in one.line(KeyLine)
        assert "read-only" in one.line(StatusLine)
        commands = {c.title for c in one.app.get_system_commands(one.app.screen)}
        assert not commands & {key.meaning for key in KEYS if key.changes}
        assert {key.meaning for key in KEYS if key.action == "freeze"} <= commands


async def test_folding_filtering_sorting_and_moving():
    async with desk() as one:
        table = one.app.main.table
        await one.press("j", "j", "j", "h")
        await one.until_shown("▸ blocks")
        assert table.listed == 6
        await one.press("l", "G")
        assert table.cursor_layer == "head"
        await one.until(lambda: "head" in one.text and "tokens" not in one.text, advance=False)
        await one.press("g")
        await one.until_shown("tokens", advance=False)
        await one.press("slash", *"fc[12]")
        await one.until_shown("blocks.3.mlp.fc2")
        assert "/fc[12] · 8 of 46 layers" in one.line(TabLine)
        await one.press("enter", "greater_than_sign", "greater_than_sign")
        await one.until_shown("‖∇out‖ ▼")
        await one.press("I")
        await one.until_shown("‖∇out‖ ▲")
        await one.press("escape", "less_than_sign", "less_than_sign", "g")
        await one.until_shown("▾ blocks")


async def test_an_invalid_filter_shows_the_reason_while_the_person_types():
    async with desk() as one:
        await one.press("slash", "left_parenthesis")
        await one.until_shown(
            "invalid regular expression: missing ), unterminated subpattern", advance=False
        )
        await one.press("escape")
        assert one.app.main.table.listed == 46


@SIZES
async def test_the_detail_shows_shapes_numbers_and_curves(size):
    async with desk(size) as one:
        await one.press(*"jjjjjjj", "enter")
        await one.until_shown("blocks.0.attention.qkv  Linear")
        for words in ("384 × 128  float32, 49.2k numbers", "gradient norm", "param gradient", "4,096"):  # noqa: RUF001
            await one.until_shown(words)
        assert any(0x2800 < ord(letter) < 0x2900 for letter in one.text)
        await one.press("i", "r", "enter")
        await one.until_shown("◆ reverse")
        assert one.source.commands[0].layers == ("blocks.0.attention.qkv",)
        await one.press("escape")
        await one.until_shown("(GPT)")


@SIZES
async def test_the_exponents_of_each_kind_replace_the_curves(size):
    async with desk(size, runs=[SyntheticRun(is_full=True)]) as one:
        await one.until_shown("tokens")
        await one.press(*"jjjjjjj", "enter", "e")
        await one.until_shown("exponents: gradient")
        await one.until_shown("share of elements")
        for words in ("in fp16", "fp16 least normal 2^-14", "2^-6│", "█", "step"):
            await one.until_shown(words)
        assert not any(0x2800 < ord(letter) < 0x2900 for letter in one.text)
        await one.press("j")
        await one.until_shown("exponents: parameters")
        await one.press("k", "k")
        await one.until_shown("exponents: output")
        await one.press("k")
        await one.until_shown("exponents: update Δw")
        await one.press("e")
        await one.until(lambda: any(0x2800 < ord(letter) < 0x2900 for letter in one.text))
        assert ("exponents: update Δw" in one.text) == (size[0] >= 100)


async def test_on_a_wide_screen_the_exponents_are_next_to_the_curves():
    async with desk(runs=[SyntheticRun(is_full=True)]) as one:
        await one.until_shown("tokens")
        await one.press(*"jjjjjjj", "enter")
        for words in ("gradient norm", "activation", "exponents: gradient", "fp16 least normal"):
            await one.until_shown(words)
        assert "update Δw/w" not in one.text


@SIZES
async def test_at_core_detail_the_exponents_are_shown_as_not_measured(size):
    async with desk(size) as one:
        await one.press(*"jjjjjjj", "enter")
        await one.until_shown("gradient norm")
        assert "exponents:" not in one.text
        await one.press("e")
        for words in ("exponents: gradient", "Not measured", 'gradscope.attach(model, detail="full")'):
            await one.until_shown(words)


async def test_a_frozen_strip_does_not_change_while_steps_arrive():
    async with desk(runs=[SyntheticRun(is_full=True)]) as one:
        await one.until_shown("tokens")
        await one.press(*"jjjjjjj", "enter", "e", "p")
        step = one.app.presenter.frame.measured.step
        await one.until(lambda: one.app.session.watched.step > step + 8)
        await one.press("j")
        await one.until_shown("exponents: parameters")
        assert f"step {step:,}" in one.text.partition("exponents:")[2]
        assert f"step {step + 1:,}" not in one.text.partition("exponents:")[2]


async def test_a_frozen_view_does_not_change_and_counts_the_new_steps():
    async with desk() as one:
        await one.press("p")
        step = one.app.presenter.frame.measured.step
        await one.until(
            lambda: (
                "frozen, 7 waiting" in one.line(StatusLine) or one.app.session.watched.step > step + 60
            )
        )
        assert "waiting" in one.line(StatusLine)
        assert one.app.presenter.frame.measured.step == step
        await one.press("p")
        await one.until(lambda: one.app.presenter.frame.measured.step > step)


async def test_only_rows_that_changed_are_drawn_again():
    async with desk() as one:
        table = one.app.main.table
        await one.until(lambda: table._view.layout.width == 119)  # the scroll bar takes one cell
        frame, states = one.app.presenter.frame, ()
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
    async with desk() as one:
        await one.until(lambda: "● live" in one.line(StatusLine))
        stopped = time.monotonic()
        await one.until(lambda: "no new step for" in one.line(StatusLine), advance=False)
        assert time.monotonic() - stopped < 2.5  # two seconds, and a machine that is busy
        await one.until(lambda: "● live" in one.line(StatusLine))


async def test_a_lost_link_and_its_return_are_shown_and_logged():
    async with desk() as one:
        one.source.link.phase = "lost"
        await one.until(
            lambda: "✕ link lost, reconnecting, data " in one.line(StatusLine), advance=False
        )
        one.source.link.phase = "up"
        await one.press("5")
        await one.until_shown("the link to the hub is up again")
        assert "the link to the hub was lost" in one.text


async def test_an_ended_run_is_shown_as_ended():
    async with desk() as one:
        one.source.put(Runs(runs=(SyntheticRun().info(is_live=False),)))
        await one.until(lambda: "■ ended" in one.line(StatusLine), advance=False)
        assert "(GPT)" in one.text


async def test_without_a_hub_it_waits_and_connects_when_a_run_appears():
    source, has_hub = SyntheticSource(SyntheticRun(), past=3), []

    def connect(on_arrival):
        if not has_hub:
            raise NothingToConnectError("no hub is running at /tmp/x; start a training")
        return source(on_arrival)

    app = GradscopeApp(connect)
    async with app.run_test(size=(80, 24)) as pilot:
        one = Desk(app, pilot, source)
        await one.until_shown("gradscope.attach(model)", advance=False)
        assert "Waiting for a run" in one.text
        has_hub.append(True)
        await one.until_shown("46 layers")


async def test_several_runs_are_offered_and_one_is_chosen():
    runs = [SyntheticRun(run=name) for name in ("first", "second")]
    async with desk(runs=runs, is_watched=False) as one:
        await one.until(lambda: isinstance(one.app.screen, RunsScreen), advance=False)
        await one.until_shown("second", advance=False)
        await one.press("j", "enter")
        await one.until_shown("(GPT)")
        assert one.app.session.watched.run == "second"
        await one.press("R")
        await one.until(lambda: isinstance(one.app.screen, RunsScreen))


async def test_the_screen_waits_for_the_named_run():
    async with desk(run="later", is_watched=False) as one:
        await one.until_shown("Waiting for the run 'later'", advance=False)
        one.source.runs["later"] = SyntheticRun(run="later")
        one.source.put(Runs(runs=(SyntheticRun(run="later").info(),)))
        await one.until(lambda: "later" in one.line(StatusLine))


async def test_a_model_without_layers_has_an_empty_state():
    async with desk(runs=[SyntheticRun(layers=())], is_watched=False) as one:
        await one.until_shown("GPT has no layers to show")


async def test_a_model_without_gradients_is_shown_with_dots():
    names = frozenset(layer.name for layer in SyntheticRun().layers)
    async with desk(runs=[SyntheticRun(unmeasured=names)]) as one:
        await one.until_shown("tokens")
        row = next(line for line in one.text.splitlines() if " tokens" in line)
        assert "·" in row


@pytest.mark.parametrize("size", [(60, 20), (40, 10)], ids=["60x20", "40x10"])
async def test_small_windows_keep_names_gradients_and_the_link_state(size):
    async with desk(size) as one:
        await one.until(lambda: "live" in one.line(StatusLine))
        assert "tokens" in one.text
        await one.press("j", "i", "r")
        await one.until_shown("multiplied", advance=False)
        await one.press("tab")
        await one.until_shown("while I watch", advance=False)
        assert "viewer has gone." in " ".join(one.text.replace("│", " ").split())
        await one.press("enter")
        await one.until_shown("◆")


async def test_a_window_too_small_says_so_and_recovers():
    async with desk() as one:
        await one.pilot.resize_terminal(30, 8)
        await one.until(lambda: "30 × 8 is too small" in one.text)  # noqa: RUF001
        await one.pilot.resize_terminal(100, 30)
        await one.until_shown("(GPT)")


async def test_quitting_asks_only_while_a_change_of_this_viewer_is_in_force():
    async with desk() as one:
        await one.press("j", "i", "r", "enter")
        await one.until(lambda: "1 active" in one.line(InterventionBar))
        await one.press("q")
        await one.until(lambda: isinstance(one.app.screen, QuitScreen))
        await one.press("escape")
        assert one.app.is_running
        await one.press("q", "r")
        await one.until(lambda: one.app._exit)
        assert one.source._entries == []
        assert one.app.return_code == 0


@pytest.mark.parametrize(("key", "code"), [("q", 0), ("ctrl+c", 130)])
async def test_quitting_without_changes_is_immediate(key, code):
    async with desk() as one:
        await one.press(key)
        assert one.app.return_code == code


async def test_ctrl_c_quits_also_from_a_form_and_a_second_one_does_not_ask():
    async with desk() as one:
        await one.press("j", "i", "r", "enter")
        await one.until(lambda: "1 active" in one.line(InterventionBar))
        await one.press("i", "r", "ctrl+c")
        await one.until(lambda: isinstance(one.app.screen, QuitScreen))
        await one.press("ctrl+c")
        assert one.app.return_code == 130


async def test_help_and_palette_open_and_close():
    async with desk() as one:
        await one.press("question_mark")
        assert isinstance(one.app.screen, HelpScreen)
        await one.until_shown("next row", advance=False)
        await one.press("escape", "colon")
        await one.until(lambda: one.app.screen is not one.app.main)
        await one.press(*"freeze")
        await one.until_shown("freeze the view", advance=False)
        await one.press("enter")
        await one.until(lambda: one.app.presenter.is_frozen)


async def test_interventions_are_listed_and_removed_one_by_one():
    async with desk() as one:
        for keys in (("j", "i", "r", "enter"), ("j", "i", "x", "enter")):
            await one.press(*keys)
            await one.until(lambda: not one.app.changes.pending)
        await one.press("4")
        await one.until_shown("60 s after its viewer")
        await one.press("j", "x")
        await one.until(lambda: len(one.app.presenter.states()) == 1)
        assert one.app.presenter.states()[0].action == "reverse"


async def test_the_mouse_works_too():
    async with desk() as one:
        await one.pilot.click("LayerTable", offset=(10, 4))
        assert one.app.main.table.cursor_layer == "blocks"
        await one.pilot.click("TabLine", offset=(one.line(TabLine).index("5 Log"), 0))
        await one.until(lambda: one.app.presenter.page == "log")
        await one.pilot.click("KeyLine", offset=(2, 0))


@pytest.mark.parametrize("theme", ["gradscope-light", "ansi-dark"])
async def test_other_themes_can_be_chosen(theme):
    async with desk() as one:
        one.app.theme = theme
        await one.until_shown("(GPT)")
        style = one.app.main.table.style_of("bad")
        assert style.bgcolor is not None


async def test_keys_work_while_many_past_steps_arrive():
    async with desk(past=600) as one:
        await one.until(lambda: len(one.app.session.watched.ring) == 600)
        assert one.app.session.watched.counters["again"] == 0
        assert isinstance(one.app.main.query_one(EmptyState), EmptyState)
