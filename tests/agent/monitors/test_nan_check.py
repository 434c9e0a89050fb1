"""The sentinel: the first bad step is known though not observed, and parameters can be kept clean."""

import pytest
import torch
from torch import nn

import gradscope
from gradscope.errors import AlertError

pytestmark = pytest.mark.slow

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(5))
BAD = 23


class Poison(nn.Module):
    """Multiplies by one, and by NaN in the steps `at`."""

    def __init__(self, *at):
        super().__init__()
        self.at, self.step = at, 0

    def forward(self, x):
        factor = float("nan") if self.step in self.at else 1.0
        self.step += 1
        return x * factor


def make_model(*at):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), Poison(*at), nn.Linear(5, 2))


def train(model, optimizer, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        model(X).square().mean().backward()
        optimizer.step()


def test_the_first_nonfinite_step_is_reported_even_if_it_was_not_observed():
    model = make_model(BAD)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer, every=1000, hub=None, quiet=True) as scope:
        train(model, optimizer, BAD + 3)
        first = scope.alerts[0]
        assert (first.rule, first.step) == ("nonfinite", BAD)
        assert first.text.startswith(
            "not finite: the gradients of 0.weight, 0.bias, 3.weight and 1 more"
        )
        assert first.text.endswith("origin not observed")
        # The step after it is observed, and there the parameters have it already.
        second = scope.alerts[1]
        assert (second.rule, second.step) == ("nonfinite", BAD + 1)
        assert "in the parameters of 0, since an earlier step" in second.text
        assert scope.faults == {}


def test_skip_step_keeps_parameters_finite_and_shows_the_origin():
    model = make_model(BAD, BAD + 1, BAD + 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with gradscope.attach(model, optimizer, every=1000, hub=None, quiet=True) as scope:
        scope.rule("nonfinite", action="skip_step")
        train(model, optimizer, BAD)
        kept = [p.detach().clone() for p in model.parameters()]
        counts = [float(optimizer.state[p]["step"]) for p in model.parameters()]
        train(model, optimizer, 3)
        assert all(torch.equal(p, q) for p, q in zip(model.parameters(), kept, strict=True))
        assert [float(optimizer.state[p]["step"]) for p in model.parameters()] == counts
        told = [(alert.rule, alert.step) for alert in scope.alerts]
        assert told[0] == ("nonfinite", BAD)
        assert "the optimizer's step is skipped" in scope.alerts[0].text
        # The step after it is bad too, clean of the first one's traces, and was observed: the origin.
        origin = next(a for a in scope.alerts if a.finding.layer)
        assert origin.step == BAD + 1
        assert origin.finding.layer == "2"
        assert "first in the forward pass, in the output of 2" in origin.text
        train(model, optimizer, 2)
        assert all(p.isfinite().all() for p in model.parameters())
        assert not torch.equal(next(model.parameters()), kept[0])
        assert scope.faults == {}


def test_raise_stops_before_the_parameters_change():
    model = make_model(BAD)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer, every=1000, hub=None, quiet=True) as scope:
        scope.rule("nonfinite", action="raise")
        with pytest.raises(AlertError, match=f"nonfinite in step {BAD}: not finite: the gradients of"):
            train(model, optimizer, BAD + 1)
        assert all(p.isfinite().all() for p in model.parameters())


def test_in_an_observed_step_the_origin_is_the_first_tensor_and_is_reported_once():
    model = make_model(BAD)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer, every=1, hub=None, quiet=True) as scope:
        train(model, optimizer, BAD + 1)
        (alert,) = scope.alerts
        assert (alert.step, alert.finding.layer, alert.finding.kind) == (BAD, "2", "out")
        assert alert.finding.value == 35


@pytest.mark.parametrize("options", [{}, {"every": 1000}, {"every": 1}, {"every": 7}])
def test_a_nan_that_stays_is_reported_once_as_gradients_and_once_as_parameters_and_counted(options):
    model = make_model(BAD)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer, hub=None, quiet=True, **options) as scope:
        events = []
        scope._run.event = lambda level, code, text: events.append((level, code, text))
        train(model, optimizer, BAD + 400)
        assert 1 <= len(scope.alerts) <= 3
        assert {alert.rule for alert in scope.alerts} == {"nonfinite"}
        assert scope.alerts[-1].step <= BAD + 40
        counted = [text for _, code, text in events if code == "nonfinite.persists"]
        assert (
            counted[0] == f"gradients were not finite in 10 checked steps since step {BAD}"
            or options == {}
        )
        assert scope.faults == {}


def test_a_nan_that_comes_and_goes_is_reported_after_absences_that_double():
    bad = range(BAD, 2000, 30)
    model = make_model(*bad)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer, every=10_000, hub=None, quiet=True) as scope:
        scope.rule("nonfinite", action="skip_step")
        train(model, optimizer, 2000)
        checked = [alert.step for alert in scope.alerts if not alert.finding.layer]
        assert checked == [BAD, BAD + 30, BAD + 60]  # then more than 40 finite steps would be needed
        assert all(p.isfinite().all() for p in model.parameters())


class BadBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("inf")


class Bad(nn.Module):
    def forward(self, x):
        return BadBackward.apply(x)


def test_an_origin_in_the_backward_pass_is_the_first_nonfinite_gradient():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), Bad(), nn.Linear(5, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer, every=1, hub=None, quiet=True) as scope:
        train(model, optimizer, 1)
        (alert,) = scope.alerts
        assert (alert.finding.layer, alert.finding.kind) == ("1", "grad")
        assert "first in the backward pass, in the gradient at the output of 1" in alert.text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_very_large_finite_gradients_raise_no_alert(dtype):
    parameter = nn.Parameter(torch.zeros(1000, dtype=dtype))
    model = nn.Module()
    model.weight = parameter
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradscope.attach(model, optimizer, every=1000, hub=None, quiet=True) as scope:
        for fill in (torch.finfo(dtype).max, float("-inf")):
            parameter.grad = torch.full_like(parameter, fill)
            optimizer.step()
        assert next((a.rule, a.step) for a in scope.alerts if a.rule == "nonfinite") == ("nonfinite", 1)
        assert set(scope.faults) <= {"observing layers"}  # there is none that computes


def test_gradients_computed_in_a_closure_are_checked_after_the_step():
    model = make_model(3)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=1)

    def closure():
        optimizer.zero_grad()
        loss = model(X).square().mean()
        loss.backward()
        return loss

    with gradscope.attach(model, optimizer, every=1000, hub=None, quiet=True) as scope:
        for _ in range(5):
            optimizer.step(closure)
        assert next(a for a in scope.alerts if a.rule == "nonfinite").step == 3


def test_sparse_gradients_are_checked():
    model = nn.Sequential(nn.Embedding(10, 3, sparse=True))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer, every=1000, hub=None, quiet=True) as scope:
        for factor in (1.0, float("nan")):
            optimizer.zero_grad()
            (model(torch.tensor([1, 1, 2])).sum() * factor).backward()
            optimizer.step()
        assert next((a.rule, a.step) for a in scope.alerts) == ("nonfinite", 1)
        assert scope.faults == {}


def trained(*, is_attached):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scope = gradscope.attach(model, optimizer, every=3, hub=None, quiet=True) if is_attached else None
    if scope is not None:
        scope.rule("nonfinite", action="skip_step")
        scope.rule("spike", action="skip_step", threshold=1e6)
        scope.rule("exploding", action="clip", threshold=1e9)
        scope.breakpoint("any.nan or loss > 1e9")
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = model(X).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    if scope is not None:
        assert scope.alerts == ()
        assert scope.faults == {}
        scope.detach()
    return [*losses, *(p.detach() for p in model.parameters()), torch.get_rng_state()]


def test_rules_the_nonfinite_check_and_breakpoints_change_nothing_bitwise_without_findings():
    bare, attached = trained(is_attached=False), trained(is_attached=True)
    assert all(torch.equal(a, b) for a, b in zip(bare, attached, strict=True))
