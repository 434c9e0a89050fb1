"""What the checks have covered, and what they could not check and why, is true for real trainings."""

import gc

import pytest
import torch
from torch import nn

import gradscope


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def train(model, *, steps=8, names=("loss",), optimizer=True, forward=None, **options):
    """Train and log a loss under these names; return what was checked."""
    options = {"every": 1, "hub": None, "record": False, "quiet": True} | options
    sgd = torch.optim.SGD(model.parameters(), 1e-2)
    with gradscope.attach(model, **options) as scope:
        for _ in range(steps):
            loss = (forward or model)(torch.randn(16, 4)).square().mean()
            sgd.zero_grad()
            loss.backward()
            scope.log(**dict.fromkeys(names, loss.detach()))
            if optimizer:
                sgd.step()
            else:
                scope.mark_step()
        return scope.diagnose().checked


def gaps(checked):
    return {gap.what: gap for gap in checked.not_checked}


def test_all_steps_of_a_training_with_loss_and_optimizer_are_checked(model):
    checked = train(model)
    assert (checked.steps, checked.observed, checked.first, checked.not_checked) == (8, 8, 8, ())


def test_steps_that_are_not_observed_are_not_counted_as_observed(model):
    checked = train(model, steps=12, every=4)
    assert (checked.steps, checked.observed, checked.every) == (12, 3, 4)


def test_without_a_logged_loss_it_says_how_to_log_one(model):
    gap = gaps(train(model, names=()))["the loss"]
    assert gap.why == "no loss is logged"
    assert "scope.log(loss=loss)" in gap.enable


def test_scalars_of_other_names_are_not_a_loss(model):
    assert "none is named loss (accuracy)" in gaps(train(model, names=("accuracy",)))["the loss"].why


def test_two_losses_are_each_judged_alone(model):
    gap = gaps(train(model, names=("d_loss", "g_loss")))["the sum of the losses"]
    assert gap.why == "d_loss, g_loss are logged, and each is judged alone"


def test_without_an_optimizer_the_updates_are_not_checked(model):
    gap = gaps(train(model, optimizer=False))["optimizer and updates"]
    assert "attach(model, optimizer)" in gap.enable


def test_an_optimizer_that_is_gone_at_the_end_of_the_script_has_stepped(model):
    sgd = torch.optim.SGD(model.parameters(), 1e-2)
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        for _ in range(8):
            model(torch.randn(16, 4)).square().mean().backward()
            sgd.step()
        del sgd
        gc.collect()
    assert "optimizer and updates" not in gaps(scope.diagnose().checked)


def test_layers_that_are_not_watched_are_not_checked(model):
    gap = gaps(train(model, layers=["0"]))["outputs and gradients of the other layers"]
    assert gap.why == "attach(layers=...) chooses 1 of 4 modules"


def test_a_part_that_failed_is_named(model):
    with gradscope.attach(model, every=1, hub=None, record=False, quiet=True) as scope:
        scope._run.faults.report("the check of the graph", ValueError("x"), "It is off.")
        assert "the check of the graph" in gaps(scope.diagnose().checked)


def test_before_a_step_has_ended_nothing_is_claimed(model):
    with gradscope.attach(model, hub=None, record=False, quiet=True) as scope:
        assert scope.diagnose().headline == "no verdict yet: no step has ended"


def test_updates_that_need_too_much_memory_are_named_with_the_figures(model, monkeypatch):
    monkeypatch.setattr("gradscope.observe.parameters._KEPT_BYTES", 0)
    monkeypatch.setattr("gradscope.observe.parameters._SHARE", 1e-12)
    gap = gaps(train(model))["updates of the parameters"]
    assert "copies of the parameters would take 0.0 GB of the " in gap.why
    assert gap.why.endswith(" GB that are free on cpu, more than half")
