"""The nonfinite check keeps to its share of the budget, and checks at least every 32 steps."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import gradscope
from gradscope.agent.monitors.nan_check_schedule import CheckSchedule

STEP_S = 0.01
SHARE_S = 0.25 * 0.02 * STEP_S


def run(schedule, steps, check_s):
    """Return the steps in which gradients were checked."""
    checked = []
    for step in steps:
        if step % schedule.every == 0:
            schedule.learn(check_s)
            checked.append(step)
    return checked


def make_schedule(budget=0.02):
    return CheckSchedule(SimpleNamespace(budget=budget, pace_s=STEP_S))


def test_every_step_is_checked_if_that_is_cheap():
    schedule = make_schedule()
    assert run(schedule, range(50), 0.8 * SHARE_S) == list(range(50))
    assert schedule.words == ""


def test_every_step_is_checked_without_a_budget():
    assert run(make_schedule(None), range(50), 1.0) == list(range(50))


@pytest.mark.parametrize("check_s", [1.2 * SHARE_S, 4 * SHARE_S, 20 * SHARE_S, 30 * SHARE_S])
def test_it_keeps_to_a_quarter_of_the_budget(check_s):
    schedule = make_schedule()
    checked = run(schedule, range(600), check_s)
    assert sum(step >= 200 for step in checked) * check_s / 400 <= SHARE_S * 1.05
    assert schedule.every == math.ceil(check_s / SHARE_S)
    assert (
        schedule.words == f"gradients are checked every {schedule.every} steps, to keep to the budget"
    )


def test_an_expensive_check_runs_at_least_every_32_steps():
    schedule = make_schedule()
    checked = run(schedule, range(400), 1.0)
    assert schedule.every == 32
    assert {b - a for a, b in zip(checked[-5:], checked[-4:], strict=False)} == {32}


def test_every_step_is_checked_again_if_training_becomes_slower():
    sampler = SimpleNamespace(budget=0.02, pace_s=STEP_S)
    schedule = CheckSchedule(sampler)
    run(schedule, range(400), 8 * SHARE_S)
    assert schedule.every > 1
    sampler.pace_s = 40 * STEP_S
    checked = run(schedule, range(400, 500), 8 * SHARE_S)
    assert (schedule.every, schedule.words) == (1, "")
    assert checked[-50:] == list(range(450, 500))


class Late(nn.Module):
    """Its weight's gradient alone becomes infinite, in steps from `at` on."""

    def __init__(self, at):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(64, 64))
        self.at, self.step = at, 0
        self.weight.register_hook(self.spoil)

    def spoil(self, gradient):
        self.step += 1
        return gradient * math.inf if self.step > self.at else gradient

    def forward(self, x):
        return x @ self.weight


@pytest.mark.parametrize("action", ["event", "skip_step"])
def test_a_nonfinite_gradient_is_reported_within_32_steps_and_at_once_if_a_rule_skips_the_step(action):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), Late(40), nn.Linear(64, 64))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)  # infinity times 0 is NaN in the parameters
    with gradscope.attach(model, optimizer, budget=1e-6, hub=None, quiet=True) as scope:
        scope.rule("nonfinite", action=action)
        for _ in range(80):
            optimizer.zero_grad()
            model(torch.randn(1, 64)).square().mean().backward()
            optimizer.step()
        first = scope.alerts[0]
        assert first.rule == "nonfinite"
        if action == "skip_step":
            assert first.step == 40
            assert bool(torch.isfinite(model[1].weight).all())
        else:
            assert 40 <= first.step < 40 + 32
        assert not scope.faults
