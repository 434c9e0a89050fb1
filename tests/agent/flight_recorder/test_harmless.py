"""A training with the recorder, and with a replay in it, is bitwise the training without."""

import gc
import random
import weakref

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from agent.flight_recorder.cases import CASES, Sick, log_of_zero, set_sick


class Noisy(nn.Module):
    """A model with all that has a state: dropout, batch norm, a counter, and random numbers of three kinds."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop = nn.Linear(6, 16), nn.BatchNorm1d(16), nn.Dropout(0.3)
        self.bad, self.head = Sick(log_of_zero), nn.Linear(16, 4)
        self.calls, self.seen = 0, []
        self.average = torch.zeros(16)
        self.random = random.Random(3)

    def forward(self, x):
        self.calls += 1
        x = self.drop(torch.tanh(self.norm(self.first(x))))
        self.average.mul_(0.9).add_(x.detach().mean(0))
        self.seen.append(float(x.detach().sum()))
        x = x * (1 + random.random() + np.random.rand() + self.random.random())  # noqa: NPY002 - what scripts use
        return self.head(self.bad(x))


def train(*, is_attached):
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - as above
    model = Noisy()
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    scope = gradscope.attach(model, hub=None, record=False, quiet=True) if is_attached else None
    if scope is not None:
        scope.rule("nonfinite", action="skip_step")
    for step in range(8):
        set_sick(model, step == 5)
        optimizer.zero_grad()
        model(torch.randn(8, 6)).square().mean().backward()
        if is_attached or step != 5:
            optimizer.step()
    findings = ()
    if scope is not None:
        findings = scope.findings
        assert scope.faults == {}
        scope.detach()
    state = [t.clone() for t in (*model.state_dict().values(), model.average)]
    after = torch.rand(3), random.random(), np.random.rand(), model.random.random()  # noqa: NPY002 - as above
    return state, (model.calls, model.seen), after, findings


def test_a_step_that_is_replayed_and_skipped_changes_nothing_else():
    bare, attached = train(is_attached=False), train(is_attached=True)
    assert all(torch.equal(a, b) for a, b in zip(bare[0], attached[0], strict=True))
    assert bare[1] == attached[1]
    assert torch.equal(bare[2][0], attached[2][0])
    assert bare[2][1:] == attached[2][1:]
    (finding,) = attached[3]
    assert finding.layers == ("bad",)
    assert "skipped" in finding.message


@pytest.mark.parametrize(
    "name", ["a row that is masked completely", "root at zero", "log of zero in the loss"]
)
def test_the_nan_step_itself_is_the_same(name):
    states = []
    for is_attached in (False, True):
        torch.manual_seed(0)
        case = CASES[name]
        model = case.make()
        optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
        scope = gradscope.attach(model, hub=None, record=False, quiet=True) if is_attached else None
        set_sick(model, True)
        case.loss_of(model(case.inputs(model)), model).backward()
        optimizer.step()
        states.append(
            [p.detach().clone() for p in model.parameters()] + [p.grad for p in model.parameters()]
        )
        if scope is not None:
            scope.detach()
    assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(*states, strict=True))


def test_nothing_is_kept_after_the_optimizer_has_stepped():
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with gradscope.attach(model, hub=None, record=False, quiet=True):
        x = torch.randn(4, 3)
        output = model(x)
        output.square().mean().backward()
        kept = weakref.ref(x), weakref.ref(output)
        optimizer.step()
        del x, output
        gc.collect()
        assert [each() for each in kept] == [None, None]


def test_a_loss_that_the_script_does_not_use_is_reported_at_the_next_forward():
    model = nn.Sequential(Sick(torch.log), nn.Linear(6, 4))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    set_sick(model, True)
    with gradscope.attach(model, hub=None, record=False, quiet=True) as scope:
        for step in range(4):
            loss = model(torch.full((8, 6), 0.0 if step == 2 else 2.0)).square().mean()
            if not torch.isfinite(loss):
                continue
            loss.backward()
            optimizer.step()
        (finding,) = [each for each in scope.findings if each.code == "nonfinite"]
    assert finding.layers == ("0",)
    assert "aten.log" in finding.message
    assert "no optimizer has stepped" in finding.message


def test_a_model_with_a_mask_that_is_discarded_is_silent():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(6, 4)

        def forward(self, x):
            out = self.linear(x)
            return out.masked_fill(torch.eye(8, 4, dtype=torch.bool), -torch.inf)

    model = Masked()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    with gradscope.attach(model, hub=None, record=False, quiet=True) as scope:
        for _ in range(6):
            model(torch.randn(8, 6)).softmax(-1).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        assert "nonfinite" not in [each.code for each in scope.findings]
        assert scope.faults == {}
