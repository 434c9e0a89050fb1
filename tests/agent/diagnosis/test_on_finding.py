"""`scope.on_finding` passes on the findings of all kinds of check, once each."""

import pytest
import torch
from torch import nn

import gradscope
from gradscope.errors import UsageError

F = nn.functional


class Sick(nn.Module):
    """A double softmax (graph), a head that no optimizer holds (wiring), dead units (rule), and NaN in step 15."""

    def __init__(self):
        super().__init__()
        self.body, self.act, self.head = nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)
        with torch.no_grad():
            self.body.bias.fill_(-100.0)
        self.is_sick = False

    def forward(self, x):
        x = self.head(self.act(self.body(x)))
        return (x * torch.nan if self.is_sick else x).softmax(-1)


def train(callback):
    torch.manual_seed(0)
    model = Sick()
    optimizer = torch.optim.SGD(model.body.parameters(), 1e-3)
    with gradscope.attach(model, hub=None, record=False, quiet=True, every=1) as scope:
        scope.on_finding(callback)
        for step in range(30):
            model.is_sick = step in (15, 17)
            optimizer.zero_grad()
            F.cross_entropy(model(torch.randn(8, 4)), torch.arange(8) % 3).backward()
            optimizer.step()
        return scope


def test_each_finding_is_passed_on_once():
    seen = []
    scope = train(seen.append)
    keys = [(each.code, each.layers) for each in seen]
    assert len(keys) == len(set(keys))
    assert {"double-softmax", "not-in-optimizer", "dead-units", "nonfinite"} <= {
        code for code, _ in keys
    }
    assert set(keys) >= {(each.code, each.layers) for each in scope.findings}
    assert scope.faults == {}


def test_an_error_in_the_function_is_counted_and_training_continues():
    def fail(finding):
        raise ValueError(finding.code)

    scope = train(fail)
    assert "a function of on_finding" in str(scope.faults)
    assert scope.step == 30


def test_what_is_not_a_function_is_refused():
    with pytest.raises(UsageError, match="expects a function of a finding, got str"):
        train("pause")
