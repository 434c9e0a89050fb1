"""The steps in which the flight recorder is active: its cost, and what it says about the others."""

import pytest
import torch
from torch import nn

import gradscope
from gradscope.agent.flight_recorder.active_steps import ActiveSteps
from gradscope.budget import Budget, Consumer, Sampler
from gradscope.budget.budget import (
    RECORDER_FIRST_RUN,
    RECORDER_LARGEST_INTERVAL,
    RECORDER_LONGEST_SUSPENSION,
    RECORDER_RUN,
    RECORDER_WHOLE_COST,
)

STEP_S = 0.002
LAST = RECORDER_FIRST_RUN + 20_000


def active_steps(cost_s, *, budget=0.02, check_s=0.0, steps=LAST):
    """Return which of the steps are active, if an active step takes `cost_s` longer."""
    sampler = Sampler(budget=budget)
    for step in range(40):
        sampler.record(step, STEP_S, 0.0, was_observed=False)
    sampler.set_aside(check_s / STEP_S, "nonfinite check")
    active = ActiveSteps(sampler, 0)
    seen = []
    for step in range(steps):
        if step >= active.next_switch:
            active.switch(step)
        active.spent_s += [cost_s / RECORDER_WHOLE_COST] * active.is_active  # the hooks see this part
        seen.append(active.is_active)
    return active, seen


@pytest.mark.parametrize("cost_s", [30e-6, 55e-6, 200e-6, 600e-6])
@pytest.mark.parametrize("check_s", [0.0, 5e-6])
def test_the_cost_keeps_to_the_share_after_the_first_run(cost_s, check_s):
    active, seen = active_steps(cost_s, check_s=check_s)
    assert all(seen[:RECORDER_FIRST_RUN])
    share = Budget(0.02).share(Consumer.RECORDER)
    part = sum(seen[RECORDER_FIRST_RUN:]) / (LAST - RECORDER_FIRST_RUN)
    assert (part * cost_s + check_s) / STEP_S <= share * 1.02
    cycles = (LAST - RECORDER_FIRST_RUN) / (RECORDER_RUN * active.every)
    assert 1 / part == pytest.approx(active.every, rel=1 / cycles)
    assert f"1 of {active.every} steps" in active.words


def test_the_recorder_is_always_active_if_its_cost_is_within_the_share():
    active, seen = active_steps(19e-6)
    assert all(seen)
    assert active.words == ""


def test_the_recorder_is_always_active_without_a_budget():
    active, seen = active_steps(1.0, budget=None)
    assert all(seen)
    assert active.words == ""


def test_the_interval_is_bounded():
    active, seen = active_steps(1.0)
    assert active.every == RECORDER_LARGEST_INTERVAL
    assert any(seen[RECORDER_FIRST_RUN + RECORDER_RUN * RECORDER_LARGEST_INTERVAL :])


def test_each_rest_is_twice_as_long_up_to_a_limit():
    active = ActiveSteps(Sampler(budget=None), 0)
    step, rests = 5, []
    for _ in range(10):
        active.suspend()
        assert active.next_switch <= step
        active.switch(step)
        assert active.is_suspended
        assert not active.is_active
        rests.append(active.next_switch - step)
        step = active.next_switch
        active.switch(step)
        assert active.is_active
    longest = [RECORDER_LONGEST_SUSPENSION] * 10
    assert rests == [min(RECORDER_RUN * 2**n, longest[n]) for n in range(10)]


class Sick(nn.Module):
    """Makes NaN while `is_sick`."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.is_sick = False

    def forward(self, x):
        x = self.body(x)
        return (x - 1e6).log() if self.is_sick else x


def train(model, sick_in, steps):
    """Train under a budget that pays for nothing, and return the NaN findings and what was not checked."""
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    x = torch.randn(2, 4)
    with gradscope.attach(model, hub=None, record=False, quiet=True, budget=1e-6) as scope:
        for step in range(steps):
            model.is_sick = step in sick_in
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
        assert scope.faults == {}
        found = [each for each in scope.findings if each.code == "nonfinite"]
        return found, [each.what for each in scope.diagnose().checked.not_checked]


def test_a_nan_in_an_inactive_step_is_reported_without_its_operation_and_with_the_reason():
    sick = RECORDER_FIRST_RUN + 10 * RECORDER_RUN
    sick += -sick % 32  # the gradients of this step are checked
    torch.manual_seed(0)
    found, not_checked = train(Sick(), {sick}, sick + 40)
    (finding,) = found
    assert "to keep to the budget" in finding.message + finding.cause
    assert "the origin of a NaN in all steps" in not_checked


def test_a_nan_of_the_first_run_is_traced_without_any_budget():
    torch.manual_seed(0)
    found, _ = train(Sick(), {RECORDER_FIRST_RUN - 3}, RECORDER_FIRST_RUN)
    (finding,) = found
    assert "aten.log" in finding.message


def test_a_nan_that_lasts_is_traced_once_and_the_recorder_rests():
    torch.manual_seed(0)
    model = Sick()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    x = torch.randn(2, 4)
    inactive = 0
    with gradscope.attach(model, hub=None, record=False, quiet=True, budget=None) as scope:
        for step in range(300):
            model.is_sick = step == 100
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
            inactive += scope._recorder.is_between_steps is None
        found = [each for each in scope.findings if each.code == "nonfinite"]
        assert scope.faults == {}
    assert [each.found_step for each in found] == [100]
    assert inactive >= 300 - 101 - 5
    assert "aten.log" in found[0].message
