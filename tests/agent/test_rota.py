"""Looking at large gradients by turns: never less than promised, and within its share."""

import math

import pytest
import torch
from torch import nn

import gradscope
from gradscope.agent.rota import Rota

SMALL, LARGE = 10, 100_000


def parameters():
    return [nn.Parameter(torch.empty(SMALL if i % 2 else LARGE)) for i in range(40)]


def costing(rota, given, steps, *, whole_s, step_s=0.01):
    """Let steps pass in which looking costs by elements; return what was spent, and what looked at."""
    spent_s, looked = [], []
    for step in steps:
        chosen, part = rota.choose(given, step)
        spent_s.append(whole_s * part)
        looked.append({id(p) for p in chosen})
        rota.learn(spent_s[-1], step_s, part)
    return spent_s, looked


def test_all_is_looked_at_in_every_step_where_that_is_cheap():
    given = parameters()
    _, looked = costing(Rota(0.02), given, range(50), whole_s=0.4e-4)
    assert all(len(each) == len(given) for each in looked)


def test_all_is_looked_at_in_every_step_without_a_budget():
    given = parameters()
    _, looked = costing(Rota(None), given, range(50), whole_s=1.0)
    assert all(len(each) == len(given) for each in looked)


@pytest.mark.parametrize("whole_s", [0.6e-4, 2e-4, 1e-3])
def test_it_keeps_to_a_quarter_of_the_budget_and_small_ones_are_looked_at_always(whole_s):
    given, rota = parameters(), Rota(0.02)
    spent_s, looked = costing(rota, given, range(400), whole_s=whole_s)
    assert sum(spent_s[200:]) / 200 <= 0.25 * 0.02 * 0.01 * 1.05
    small = {id(p) for p in given if p.numel() == SMALL}
    assert all(small <= each for each in looked)
    assert rota.turns == math.ceil(whole_s / 0.5e-4)
    for first in range(200, 220):  # in so many steps running everything had its turn
        assert set().union(*looked[first : first + rota.turns]) == {id(p) for p in given}


def test_what_costs_far_too_much_is_looked_at_in_32_steps_at_the_latest():
    given, rota = parameters(), Rota(0.02)
    _, looked = costing(rota, given, range(200), whole_s=1.0)
    assert rota.turns == 32
    assert set().union(*looked[100:132]) == {id(p) for p in given}


def test_other_parameters_are_sorted_anew():
    given, rota = parameters(), Rota(0.02)
    costing(rota, given, range(100), whole_s=1e-3)
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
