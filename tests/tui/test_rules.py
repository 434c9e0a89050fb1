"""Rules on the screen: what a rule would have reported in the past, and the form with its list."""

import numpy as np
import pytest
from synthetic_run import SyntheticRun
from test_app import SIZES, open_app
from test_breakpoints import store_of

from gradscope.errors import UnknownLayerError, UsageError
from gradscope.protocol import RuleSetting
from gradscope_tui.view.condition_trial import rule_of, rule_past_text


@pytest.fixture(scope="module")
def store():
    return store_of(SyntheticRun(), 60)


def past(store, *setting):
    return rule_past_text(rule_of(RuleSetting(*setting), store), store)


def test_a_rule_with_a_limit_would_have_reported_where_it_held_in_two_steps_in_a_row(store):
    node = store.tree.find("head")
    norms = store.ring.series("param_grad_norm", node)
    limit = float(np.quantile(norms, 0.8))
    above = norms > limit
    first = next(i for i in range(1, 60) if above[i - 1] and above[i])
    text = past(store, "exploding", "event", (limit,), 2, ("head",))
    assert text.startswith(f"It would have reported at {first}")
    assert "of the 60 observed steps 0 to 59" in text


def test_a_condition_on_the_loss_is_tried_on_the_steps_with_scalars(store):
    run = SyntheticRun()
    first = next(step for step in range(60) if run.loss(step) < 4)
    assert past(store, "loss < 4").startswith(f"It would have reported at {first}")
    assert "of the 60 steps with scalars 0 to 59" in past(store, "loss < 4")
    assert past(store, "loss > 1000") == (
        "It would not have reported anything in the 60 steps with scalars 0 to 59."
    )


def test_before_the_first_step_there_is_nothing_to_try_a_rule_on():
    empty = store_of(SyntheticRun(), 0)
    assert past(empty, "spike") == "There are no past observed steps to try it on yet."


@pytest.mark.parametrize(
    ("setting", "error"),
    [
        (("spikes",), UsageError),
        (("spike", "event", (-1.0,)), UsageError),
        (("spike", "event", (1.0, 2.0)), UsageError),
        (("spike", "event", (), None, ("nowhere",)), UnknownLayerError),
        (('grad["nowhere"].norm > 1',), UnknownLayerError),
    ],
)
def test_a_rule_that_cannot_be_set_has_a_reason(store, setting, error):
    with pytest.raises(error):
        rule_of(RuleSetting(*setting), store)


@pytest.mark.slow
@SIZES
async def test_a_rule_is_set_edited_and_removed_by_keys(size):
    async with open_app(size) as ui:
        await ui.press("W", *"spikes")
        await ui.until_shown("unknown rule 'spikes'", advance=False)
        await ui.press("enter")
        assert ui.source.commands == []
        await ui.press("backspace")
        await ui.until_shown("It would not have reported anything", advance=False)
        await ui.press("tab", *"20", "tab", "tab", "tab", *["right"] * 4)
        await ui.until_shown("Then: remove", advance=False)
        await ui.press("left")
        await ui.until_shown("Then: clip", advance=False)
        await ui.press("tab", "right", "enter", "4")
        await ui.until_shown("rules: W sets one")
        (command,) = ui.source.commands
        assert command.rule == RuleSetting("spike", "clip", (20.0,))
        assert command.is_kept
        await ui.until_shown("spike, threshold 20", advance=False)
        await ui.press("G", "e")
        await ui.until_shown("if this is found, do that", advance=False)
        await ui.press("tab", "backspace", "backspace", *"30", "enter")
        await ui.until_shown("spike, threshold 30")
        assert [each.action for each in ui.source.commands] == ["rule", "rule"]
        await ui.press("G", "x")
        await ui.until(lambda: ui.app.presenter.store.rules == ())
        assert ui.source.commands[-1].action == "unrule"


@pytest.mark.slow
async def test_an_action_that_a_rule_cannot_have_is_not_sent_and_a_refusal_says_why():
    async with open_app(refuse="control is off for this run") as ui:
        await ui.press("W", *"dead", *["tab"] * 4, *["right"] * 3)
        await ui.until_shown("the action clip is not available for dead", advance=False)
        await ui.press("enter", "left", "left", "enter")
        assert [each.rule.action for each in ui.source.commands] == ["pause"]
        await ui.until(
            lambda: [each.message for each in ui.app._notifications] == ["control is off for this run"]
        )
