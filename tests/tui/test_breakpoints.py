"""Breakpoints: what a condition would have done in the past, and the form with its list."""

import numpy as np
import pytest
from synthetic_run import SyntheticRun, gpt_layers
from test_app import open_app

from gradscope_tui.store.past_blocks import PastBlocks
from gradscope_tui.store.run import RunStore
from gradscope_tui.view.condition_trial import condition_problem, past_text


def store_of(run, steps):
    store = RunStore(run.run)
    store.feed(run.manifest())
    for step in range(steps):
        store.feed(run.step(step))
    store.feed(run.scalars(*range(steps)))
    return store


def rising(is_true):
    return [i for i, now in enumerate(is_true) if now and not (i and is_true[i - 1])]


@pytest.fixture(scope="module")
def store():
    return store_of(SyntheticRun(), 60)


def test_a_condition_on_a_layer_would_have_paused_where_its_gradient_rose_above_the_limit(store):
    norms = store.ring.series("grad_norm", store.tree.find("head"))
    limit = float(np.median(norms))
    expected = rising((norms > limit).tolist())
    text = past_text(f'grad["head"].norm > {limit!r}', store)
    assert text.startswith(
        f"It would have paused at {', '.join(map(str, expected[-6:]))} and {len(expected) - 6} times before, "
        "of the 60 observed steps 0 to 59. "
    )
    assert text.endswith(f'At {expected[-1]}: grad["head"].norm is {norms[expected[-1]]:g}.')


def test_a_condition_on_the_loss_is_tried_on_all_steps_with_scalars(store):
    run = SyntheticRun()
    losses = [run.loss(step) for step in range(60)]
    expected = rising([loss < 4.0 for loss in losses])
    assert len(expected) <= 6
    text = past_text("loss < 4", store)
    assert f"paused at {', '.join(map(str, expected))}, of the 60 steps with scalars 0 to 59" in text


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ("loss > 1000", "It would not have paused in the 60 steps with scalars 0 to 59."),
        ("any.nan", "It would not have paused in the 60 observed steps 0 to 59."),
        ("step == 500", "It depends on the step number only."),
    ],
)
def test_a_condition_that_was_never_true_says_in_which_steps_it_was_tried(store, condition, text):
    assert past_text(condition, store) == text


def test_before_the_first_step_there_is_nothing_to_try_it_on():
    empty = store_of(SyntheticRun(), 0)
    assert past_text("any.nan", empty) == "There are no past observed steps to try it on yet."


@pytest.mark.parametrize("condition", ["grad[", "norm >", 'grad["nowhere"].norm > 1', "loss >> 3"])
def test_a_condition_that_cannot_be_set_has_a_reason(store, condition):
    assert condition_problem(condition, store)
    assert condition_problem("any.nan", store) == ""


def test_past_blocks_are_bounded_and_ordered():
    run, past = SyntheticRun(layers=gpt_layers(blocks=40)), PastBlocks()
    block = run.block(0)
    size = sum(array.nbytes for array in block.values.values())
    for step in (1, 0, *range(2, 400)):
        past.add(step, block)
    steps = [step for step, _ in past]
    assert steps == sorted(steps)
    assert steps[-1] == 399
    assert len(steps) == (32 << 20) // size
    past.clear()
    assert list(past) == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [(120, 32), (80, 24)])
async def test_a_breakpoint_is_set_edited_and_removed_by_keys(size):
    async with open_app(size) as ui:
        await ui.press("B", *"loss >")
        await ui.until_shown("expected", advance=False)
        await ui.press("enter")
        assert ui.source.commands == []
        await ui.press(*" 3.9")
        await ui.until_shown("It would have paused at", advance=False)
        await ui.press("enter", "4")
        await ui.until_shown("breakpoints: B adds one")
        assert ui.source.commands[0].condition == "loss > 3.9"
        await ui.until_shown("not reached yet, set by me")
        await ui.press("G", "e")
        await ui.until_shown("pause the training when", advance=False)
        await ui.press("backspace", "0", "enter")
        await ui.until_shown("loss > 3.0")
        assert [each.action for each in ui.source.commands] == ["break", "unbreak", "break"]
        await ui.press("G", "x")
        await ui.until_shown("No active interventions.")


@pytest.mark.slow
async def test_a_refused_breakpoint_says_why():
    async with open_app(refuse="control is off for this run") as ui:
        await ui.press("B", *"any.nan", "enter")
        await ui.until(
            lambda: [each.message for each in ui.app._notifications] == ["control is off for this run"]
        )
