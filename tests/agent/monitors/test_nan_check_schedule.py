"""Looking at large gradients by turns: never less than promised, and within its share."""

import math

import pytest
import torch
from torch import nn

import gradscope
from gradscope.agent.monitors.nan_check_schedule import CheckSchedule

SMALL, LARGE = 10, 100_000


def parameters():
    return [nn.Parameter(torch.empty(SMALL if i % 2 else LARGE)) for i in range(40)]


def costing(rota, given, steps, *, whole_s, fixed_s=0.0):
    """Let steps pass in which looking costs by elements, and a fixed part: what was spent and seen.

    A rota is told of each look; in steps that are passed over there is none.
    """
    spent_s, looked = [], []
    for step in steps:
        if step % rota.every:
            spent_s.append(0.0)
            looked.append(set())
            continue
        chosen, part = rota.choose(given, step)
        spent_s.append(fixed_s + whole_s * part)
        looked.append({id(p) for p in chosen})
        rota.learn(spent_s[-1], part)
    return spent_s, looked


def rota_of(budget, step_s=0.01):
    return CheckSchedule(budget, lambda: step_s)


def test_all_gradients_are_checked_in_every_step_if_that_is_cheap():
    given = parameters()
    _, looked = costing(rota_of(0.02), given, range(50), whole_s=0.4e-4)
    assert all(len(each) == len(given) for each in looked)


def test_all_gradients_are_checked_in_every_step_without_a_budget():
    given = parameters()
    _, looked = costing(rota_of(None), given, range(50), whole_s=1.0)
    assert all(len(each) == len(given) for each in looked)


@pytest.mark.parametrize("whole_s", [0.6e-4, 2e-4, 1e-3])
def test_it_keeps_to_a_quarter_of_the_budget_and_small_ones_are_looked_at_always(whole_s):
    given, rota = parameters(), rota_of(0.02)
    spent_s, looked = costing(rota, given, range(400), whole_s=whole_s)
    assert sum(spent_s[200:]) / 200 <= 0.25 * 0.02 * 0.01 * 1.05
    small = {id(p) for p in given if p.numel() == SMALL}
    assert all(small <= each for each in looked)
    assert rota.turns == math.ceil(whole_s / 0.5e-4)
    assert (
        rota.words == f"large gradients are looked at every {rota.turns} steps, to keep to the budget"
    )
    for first in range(200, 220):  # in so many steps running everything had its turn
        assert set().union(*looked[first : first + rota.turns]) == {id(p) for p in given}


@pytest.mark.parametrize("fixed_s", [1e-4, 4e-4, 1.5e-3])
def test_where_turns_gain_nothing_steps_are_passed_over_and_the_share_is_kept(fixed_s):
    given, rota = parameters(), rota_of(0.02)
    spent_s, looked = costing(rota, given, range(600), whole_s=1e-5, fixed_s=fixed_s)
    assert rota.every == rota.turns == math.ceil((fixed_s + 1e-5) / 0.5e-4)
    assert sum(spent_s[200:]) / 400 <= 0.25 * 0.02 * 0.01 * 1.05
    assert all(len(each) in (0, len(given)) for each in looked[200:])
    for first in range(200, 220):
        assert set().union(*looked[first : first + rota.turns]) == {id(p) for p in given}
    assert rota.words == f"gradients are looked at every {rota.turns} steps, to keep to the budget"


def test_an_expensive_check_runs_at_least_every_32_steps():
    given, rota = parameters(), rota_of(0.02)
    _, looked = costing(rota, given, range(400), whole_s=1.0)
    assert rota.turns == 32
    for first in range(300, 320):
        assert set().union(*looked[first : first + 32]) == {id(p) for p in given}


@pytest.mark.parametrize("fixed_s", [0.0, 4e-4])
def test_all_gradients_are_checked_again_if_training_becomes_slower(fixed_s):
    pace = [0.01]
    given, rota = parameters(), CheckSchedule(0.02, lambda: pace[0])
    costing(rota, given, range(400), whole_s=4e-4, fixed_s=fixed_s)
    assert rota.turns > 1
    pace[0] = 0.4
    _, looked = costing(rota, given, range(400, 500), whole_s=4e-4, fixed_s=fixed_s)
    assert (rota.turns, rota.every, rota.words) == (1, 1, "")
    assert all(len(each) == len(given) for each in looked[50:])


def test_other_parameters_are_sorted_anew():
    given, rota = parameters(), rota_of(0.02)
    costing(rota, given, range(100), whole_s=1e-3)
    assert rota.every == 1
    more = [*given, nn.Parameter(torch.empty(SMALL))]
    chosen, _ = rota.choose(more, 100)
    assert more[-1] in {*chosen}


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
def test_a_bad_gradient_is_told_of_within_the_turns_and_at_once_where_something_is_to_be_done(action):
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
