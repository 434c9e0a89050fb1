"""The focus: which layer a viewer requests, and how its focus steps are shown."""

import msgspec
import numpy as np
import pytest
from synthetic_run import SyntheticRun
from test_app import open_app

from gradscope.protocol import Runs
from gradscope_tui.store.focus_steps import FocusSteps
from gradscope_tui.store.run import RunStore
from gradscope_tui.view.detail import focus_in_words
from gradscope_tui.view.help_text import help_text

LAYER = "blocks.0.mlp.fc1"


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


@pytest.fixture
def run():
    return SyntheticRun(every=10)


def fed(run, *messages):
    store = RunStore(run.run, clock=Clock())
    for message in (run.manifest(), *messages):
        store.feed(message)
    return store


def node_of(run, name=LAYER):
    return [layer.name for layer in run.layers].index(name)


@pytest.mark.parametrize("quantity", ["out_std", "grad_norm", "param_grad_norm", "update_ratio"])
def test_a_focus_step_has_the_numbers_that_the_whole_step_would_have(run, quantity):
    node = node_of(run)
    store = fed(run, run.step(0), run.focus_step(3, LAYER), run.step(10))
    whole = fed(run, run.step(0), run.step(3), run.step(10))
    own = store.ring.series(quantity, node)
    steps, values = store.focus_steps.joined(quantity, node, store.ring.steps(), own, None)
    assert steps.tolist() == [0, 3, 10]
    assert values == pytest.approx(whole.ring.series(quantity, node), rel=1e-6)


def test_a_focus_step_of_a_container_has_no_merged_parameters(run):
    store = fed(run, run.step(0), run.focus_step(3, "blocks.0"))
    node = node_of(run, "blocks.0")
    own = store.ring.series("param_grad_norm", node)
    _, values = store.focus_steps.joined("param_grad_norm", node, store.ring.steps(), own, None)
    assert np.isfinite(values[0])
    assert np.isnan(values[1])


def test_focus_steps_change_nothing_but_the_curves_of_their_layers(run):
    store = fed(run, run.step(0))
    before = store.frame(), store.step, store.counters["taken"]
    store.feed(run.focus_step(3, LAYER))
    assert (store.frame().measured, store.step, store.counters["taken"]) == (
        before[0].measured, before[1], before[2],
    )  # fmt: skip
    assert store.ring.steps().tolist() == [0]
    other = node_of(run, "tokens")
    own = store.ring.series("out_std", other)
    assert store.focus_steps.joined("out_std", other, store.ring.steps(), own, None)[0].tolist() == [0]


def test_a_frozen_view_shows_no_later_focus_steps(run):
    store = fed(run, run.step(0), run.focus_step(3, LAYER), run.focus_step(5, LAYER))
    own = store.ring.series("out_std", node_of(run))
    steps, _ = store.focus_steps.joined("out_std", node_of(run), store.ring.steps(), own, 4)
    assert steps.tolist() == [0, 3]


def test_a_focus_without_new_steps_is_not_shown(run):
    clock = Clock()
    focus_steps = FocusSteps(clock)
    focus_steps.insert(run.focus_step(3, LAYER), run.layers)
    assert focus_steps.every(node_of(run)) == 2
    assert focus_steps.every(node_of(run, "tokens")) == 0
    clock.now_s = 10.0
    assert focus_steps.every(node_of(run)) == 0


def test_focus_steps_are_bounded_kept_once_and_cleared_if_the_run_starts_again(run):
    focus_steps = FocusSteps()
    for step in range(700):
        focus_steps.insert(run.focus_step(step, LAYER), run.layers)
    assert len(focus_steps) == 600
    focus_steps.insert(run.focus_step(50, LAYER), run.layers)
    assert len(focus_steps) == 600
    later = SyntheticRun(start_s=run.start_s + 1e6)
    focus_steps.insert(later.focus_step(0, LAYER), run.layers)
    assert len(focus_steps) == 1
    focus_steps.insert(later.focus_step(1, "head"), run.layers[:5])
    assert (focus_steps.unreadable, len(focus_steps)) == (1, 1)


def test_focus_steps_of_one_rank_are_not_drawn_among_merged_steps(run):
    store = RunStore(run.run)
    info = run.info()
    two = tuple(msgspec.structs.replace(info, rank=rank, world_size=2) for rank in range(2))
    store.ranks.note_runs(Runs(runs=two).runs)
    store.feed(run.manifest())
    store.feed(run.focus_step(3, LAYER))
    assert len(store.focus_steps) == 0
    store.choose_rank()
    store.feed(run.focus_step(5, LAYER))
    assert len(store.focus_steps) == 1


@pytest.mark.parametrize(
    ("every", "words"),
    [(1, "every step"), (2, "every 2nd step"), (3, "every 3rd step"), (11, "every 11th step"),
     (21, "every 21st step"), (40, "every 40th step")],
)  # fmt: skip
def test_the_focus_interval_is_written_in_words(every, words):
    assert focus_in_words(every) == f"focus: {words}"


@pytest.mark.parametrize("size", [(120, 32), (80, 24)], ids=["120x32", "80x24"])
async def test_the_layer_in_detail_is_in_the_focus_until_the_page_closes(size, run):
    async with open_app(size) as ui:
        assert ui.source.focused == []
        await ui.press("j", "enter")
        await ui.until(lambda: ui.source.focused == [("tokens",)])
        made, at = ui.source._watched, ui.source.at
        ui.source.put(made.focus_step(at - 1, "tokens"), made.focus_step(at + 1, "tokens"))
        await ui.until_shown("focus: every 2nd step", advance=False)
        await ui.press("escape")
        await ui.until(lambda: ui.source.focused == [("tokens",), ()])


async def test_a_readonly_viewer_requests_no_focus():
    async with open_app(is_readonly=True) as ui:
        await ui.press("j", "enter")
        await ui.until(lambda: ui.app.presenter.page == "detail")
        await ui.until_shown("gradient norm")
        assert ui.source.focused == []
        assert "focus" not in ui.text


async def test_a_refused_focus_is_shown_next_to_the_layer():
    async with open_app(refuse_focus="there is no focus on layers of a compiled model") as ui:
        await ui.press("j", "enter")
        await ui.until_shown("no focus: there is no focus on layers of a compiled")


def test_the_help_explains_the_focus():
    assert "focus: …" in help_text(is_readonly=False)
