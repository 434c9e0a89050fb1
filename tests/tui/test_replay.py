"""A recording in the app: what it shows at a step, the keys, the picker, and what it refuses."""

import asyncio
import time
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import numpy as np
import pytest
from synthetic_run import SyntheticRun
from typer.testing import CliRunner

from gradscope.cli.app import app as command
from gradscope.errors import NothingToConnectError
from gradscope.findings import finding as make_finding
from gradscope.protocol import Hello, Interventions, InterventionState, Runs, encode
from gradscope.recording import Recorder, default_path, open_recording
from gradscope_tui.app import GradscopeApp
from gradscope_tui.screens.runs import RunsScreen
from gradscope_tui.store.recorded import RecordedRun
from gradscope_tui.store.run import RunStore
from support.recordings import damage_second_chunk

pytestmark = pytest.mark.slow

DEADLINE_S = 60.0
EVERY = 3
STEPS = 120
SIZES = pytest.mark.parametrize("size", [(120, 32), (80, 24)], ids=["120x32", "80x24"])


def finding_event(run, code, step, layers=()):
    found = make_finding(code, f"{code} it is", step=step, layers=layers)
    return msgspec.structs.replace(run.event(step, code, "error"), code=code, finding=found)


def messages_of(run, *, steps=STEPS):
    """What the run sends, in order: every third step is observed. A finding at 31, an intervention from 60 to 80."""
    yield run.manifest()
    for step in range(steps):
        yield run.scalars(step)
        if step % EVERY == 0:
            yield run.step(step)
        if step == 31:
            yield finding_event(run, "loss-spike", step, ("tokens",))
        if step in (60, 80):
            state = InterventionState(id="scale-1", action="scale", arguments={"factor": 0.5}, layers=("tokens",),
                                      site="output", set_by="ann", active_since=60)  # fmt: skip
            yield Interventions(
                run=run.run, rank=0, revision=step, step=step, entries=(state,) if step == 60 else ()
            )
    yield finding_event(run, "nonfinite", steps, ("positions",))


def record(path, run, *, steps=STEPS, reason="RuntimeError: it broke"):
    hello = Hello(
        role="agent", peer="p", run=run.run, pid=7, host="box", script="train.py", started_s=1e9
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with Recorder(path, hello) as recorder:
        for message in messages_of(run, steps=steps):
            recorder.add(message, encode(message))
        recorder.close(reason=reason)
    assert recorder.failure is None
    return path


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return record(tmp_path_factory.mktemp("recorded") / "gpt.gradscope", SyntheticRun(run="gpt"))


class OpenReplay:
    def __init__(self, app, pilot):
        self.app, self.pilot = app, pilot

    @property
    def text(self):
        lines = self.app.screen._compositor.render_strips()
        return "\n".join("".join(segment.text for segment in line) for line in lines)

    async def until(self, condition):
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"this took too long; the screen:\n{self.text}"
            await asyncio.sleep(0.03)

    async def until_step(self, step):
        """Wait until the step is shown; the last one with the end of the run, in which step 119 was not observed."""
        words = "and on to the end at 119" if step == 117 else "of 0 to 119"
        await self.until(lambda: f" step {step:,} {words}" in self.app.main.timeline.text)
        newest = 119 if step == 117 else step
        await self.until(lambda: f"step {newest:,}" in self.app.main.status.text)


@asynccontextmanager
async def open_replay(path, size=(120, 32), **how):
    app = GradscopeApp(no_hub, recording=path, **how)
    async with app.run_test(size=size) as pilot:
        ui = OpenReplay(app, pilot)
        await ui.until(lambda: app.presenter.empty_text() == "" or app.replay.problem)
        yield ui


def no_hub(on_arrival):
    raise NothingToConnectError("no hub is running")


@pytest.mark.parametrize("place", [0, 1, 20, 30, 39])
def test_a_position_shows_what_a_viewer_had_received_at_the_end_of_its_step(path, place):
    run = SyntheticRun(run="gpt")
    with open_recording(path) as recording:
        recorded = RecordedRun(recording)
        shown = recorded.store_at(place)
    until = recorded.steps[place] if place < recorded.last_place else STEPS
    live = RunStore("gpt")
    for message in messages_of(run):
        if getattr(message, "step", 0) <= until and getattr(message, "steps", (0,))[0] <= until:
            live.feed(message)
    assert shown.newest.step == live.newest.step == recorded.steps[place]
    for name, values in live.frame().measured.values.items():
        np.testing.assert_array_equal(shown.frame().measured.values[name], values)
        assert (shown.frame().heat[name] == live.frame().heat[name]).all()
    assert shown.scalars.series("loss", 9)[1].tolist() == live.scalars.series("loss", 9)[1].tolist()
    assert shown.verdict.findings == live.verdict.findings
    assert shown.interventions == live.interventions


def test_a_recording_of_another_model_revision_shows_the_layers_of_the_step(tmp_path):
    run = SyntheticRun(run="two")
    hello = Hello(role="agent", peer="p", run="two", pid=7, host="box", started_s=1e9)
    layers = run.layers[:3]
    with Recorder(tmp_path / "two.gradscope", hello) as recorder:
        small = SyntheticRun(run="two", layers=layers)
        first, second = small.manifest(), run.manifest()
        second = msgspec.structs.replace(second, revision=first.revision + 1)
        later = msgspec.structs.replace(run.step(1), manifest_revision=second.revision)
        for message in (first, small.step(0), second, later):
            recorder.add(message, encode(message))
        recorder.close(reason="")
    with open_recording(tmp_path / "two.gradscope") as recording:
        recorded = RecordedRun(recording)
        assert len(recorded.store_at(0).tree) == len(layers)
        assert len(recorded.store_at(1).tree) == len(run.layers)
        assert recorded.store_at(0).newest.step == 0


@SIZES
async def test_keys_go_through_the_steps_and_the_shown_step_is_plain(path, size):
    async with open_replay(path, size) as ui:
        await ui.until_step(117)
        assert "recording: ended: RuntimeError: it broke" in ui.app.main.status.text
        await ui.pilot.press("left")
        await ui.until_step(114)
        assert "recording, not live" in ui.app.main.status.text
        await ui.pilot.press("home")
        await ui.until_step(0)
        assert ui.app.main.table.listed > 40
        await ui.pilot.press("right", "right", "right_square_bracket")
        await ui.until_step(36)
        await ui.pilot.press("end")
        await ui.until_step(117)
        assert len(ui.text.splitlines()) == size[1]


async def test_landmarks_are_in_the_line_and_can_be_jumped_to(path):
    async with open_replay(path) as ui:
        line = ui.app.main.timeline.text
        assert line.index("▲") < line.index("◆") < line.rindex("✖")
        await ui.pilot.press("home", "n")
        await ui.until_step(33)  # the first observed step after the finding of step 31
        assert "step 31: warning loss-spike: loss-spike it is" in ui.text
        await ui.pilot.press("n")
        await ui.until_step(60)
        assert "scale" in ui.app.main.bar.text
        await ui.pilot.press("N")
        await ui.until_step(33)
        assert ui.app.presenter.store.verdict.findings[0].code == "loss-spike"
        await ui.pilot.press("n", "n", "n")
        await ui.until_step(117)
        assert ui.app.presenter.store.verdict.findings[0].code == "nonfinite"


async def test_it_plays_and_stops_by_a_key_or_at_the_end(path):
    async with open_replay(path, step=0) as ui:
        await ui.until_step(0)
        await ui.pilot.press("space")
        await ui.until(lambda: "▶ step" in ui.app.main.timeline.text and ui.app.replay.place > 0)
        await ui.pilot.press("space")
        await ui.until(lambda: "❚❚ step" in ui.app.main.timeline.text)
        assert not ui.app.replay.is_playing
        await ui.pilot.press("end", "left", "space")
        await ui.until_step(117)
        await ui.until(lambda: not ui.app.replay.is_playing)
        assert "❚❚ step" in ui.app.main.timeline.text


async def test_nothing_can_be_changed_and_it_says_so(path):
    async with open_replay(path) as ui:
        for key in ("i", "X", "z", "P", "v", "m"):
            ui.app.clear_notifications()
            await ui.pilot.press(key)
            (shown,) = ui.app._notifications
            assert "This is a recording: nothing is sent to a run" in shown.message
        assert ui.app.screen is ui.app.main
        assert ui.app.source is None
        assert "intervene" not in ui.app.main.keys.text
        commands = {each.title for each in ui.app.get_system_commands(ui.app.screen)}
        assert "play, or stop" in commands
        assert "intervene in the marked layers" not in commands


async def test_a_filter_is_typed_with_the_keys_of_the_recording(path):
    async with open_replay(path) as ui:
        await ui.pilot.press("slash", "n", "o", "space", "left", "home", "end", "backspace", "r")
        assert ui.app.main.table.order.filter == "nor"
        assert ui.app.replay.place == ui.app.replay.run.last_place


async def test_the_curves_get_earlier_steps_a_while_after_the_position(tmp_path):
    long = record(tmp_path / "long.gradscope", SyntheticRun(run="gpt"), steps=300)
    async with open_replay(long) as ui:
        await ui.until(lambda: len(ui.app.presenter.store.ring) == 100)
        assert ui.app.presenter.store.newest.step == 297


async def test_the_other_tabs_are_those_of_the_step(path):
    async with open_replay(path, step=12) as ui:
        await ui.until_step(12)
        await ui.pilot.press("2")
        await ui.until(lambda: "Nothing found" in ui.text)
        await ui.pilot.press("3")
        await ui.until(lambda: "not measured up to this step" in ui.text)
        await ui.pilot.press("4")
        await ui.until(lambda: "No active interventions at this step" in ui.text)
        await ui.pilot.press("1", "j", "enter")
        await ui.until(lambda: "gradient norm" in ui.text)
        await ui.pilot.press("right")
        await ui.until_step(15)
        assert ui.app.main.detail.layer_name == "tokens"


async def test_a_damaged_step_is_not_passed_off_as_another(tmp_path):
    damaged = record(tmp_path / "damaged.gradscope", SyntheticRun(run="gpt"), steps=600)
    first, last = damage_second_chunk(damaged)
    async with open_replay(damaged, step=last) as ui:
        words = f"step {last:,} cannot be read; shown: step {first - EVERY:,}"
        await ui.until(lambda: words in ui.app.main.timeline.text)
        await ui.pilot.press("5")
        await ui.until(lambda: "the recording is damaged" in ui.text)
        await ui.pilot.press("right")
        await ui.until(lambda: f"step {last + EVERY:,} of 0" in ui.app.main.timeline.text)


@SIZES
async def test_the_screen_looks_as_in_the_golden_text(path, size):
    """To write the golden text again, delete it and run the test twice."""
    golden = Path(__file__).parent / "golden" / f"replay-{size[0]}x{size[1]}.txt"
    async with open_replay(path, size, step=33) as ui:
        await ui.until_step(33)
        await ui.until(lambda: "loss-spike it is" in ui.text and " positions " in ui.text)
        await ui.pilot.pause()
        shown = "\n".join(line.rstrip() for line in ui.text.splitlines()) + "\n"
        if not golden.exists():
            golden.write_text(shown, encoding="utf-8")
            pytest.fail(f"wrote {golden}")
        assert shown == golden.read_text(encoding="utf-8")


async def test_a_run_of_the_picker_that_has_ended_opens_its_recording_and_a_live_one_the_run(places):
    record(default_path("crashed"), SyntheticRun(run="crashed"))
    async with open_replay(record(places / "other.gradscope", SyntheticRun(run="other"))) as ui:
        live = SyntheticRun(run="trains").info()
        ui.app.session.feed(Runs(runs=(live,)))
        await ui.pilot.press("R")
        await ui.until(lambda: isinstance(ui.app.screen, RunsScreen) and "crashed" in ui.text)
        assert "● live" in ui.text
        assert "■ ended" in ui.text
        await ui.pilot.press("j", "enter")
        await ui.until(lambda: ui.app.presenter.store.run == "crashed")
        await ui.until_step(117)
        await ui.pilot.press("R")
        await ui.until(lambda: isinstance(ui.app.screen, RunsScreen))
        await ui.pilot.press("enter")
        await ui.until(lambda: ui.app.replay is None)
        assert ui.app.presenter.store.run == "trains"
        assert not ui.app.main.timeline.display


def test_without_a_terminal_it_prints_the_table_of_the_step(path):
    ran = CliRunner().invoke(command, ["replay", str(path), "--step", "31"])
    assert ran.exit_code == 0, ran.output
    assert "step 33" in ran.output
    assert "recording, not live" in ran.output
    assert "loss-spike it is" in ran.output


def test_wrong_use_says_what(path, places, tmp_path):
    cut, other = tmp_path / "cut.gradscope", tmp_path / "other.gradscope"
    cut.write_bytes(path.read_bytes()[:5000])
    other.write_text("not a recording")
    for arguments, code, words in (
        (("nope",), 3, "there is no recording of a run 'nope'"),
        ((str(tmp_path / "nope.gradscope"),), 3, "there is no recording"),
        ((str(cut),), 3, "cut.gradscope"),
        ((str(other),), 3, "other.gradscope"),
        ((str(path), "--step", "5000"), 2, "between 0 and 119"),
        ((str(path), "--tab", "nope"), 2, "--tab"),
    ):
        ran = CliRunner().invoke(command, ["replay", *arguments])
        assert (ran.exit_code, words in ran.output) == (code, True), ran.output
