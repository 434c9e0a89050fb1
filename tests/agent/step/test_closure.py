"""An optimizer that computes its gradients in a closure, as Lightning's Trainer lets every optimizer do."""

import pytest
import torch
from torch import nn

import gradscope


@pytest.fixture
def scope_of_closures():
    """Return a function that trains 12 steps, each in a closure, and returns the scope and the last gradient."""
    scopes = []

    def train(make_optimizer, use=lambda scope: None, *, is_plain=False):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 1))
        optimizer = make_optimizer(net)
        scope = gradscope.attach(net, every=1, hub=None, quiet=True)
        scopes.append(scope)
        use(scope)
        gradients = []
        for _ in range(12):
            x = torch.randn(64, 5)

            def closure(x=x):
                optimizer.zero_grad()
                loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
                loss.backward()
                gradients.append(net[2].weight.grad.clone())
                return loss

            if is_plain:
                closure()
                optimizer.step()
            else:
                optimizer.step(closure)
        return scope, gradients[-1]

    yield train
    for scope in scopes:
        scope.detach()


def _of_half(net):
    return torch.optim.SGD(net[2].parameters(), lr=0.05)  # the fault: net[0] is in no optimizer


def test_a_closure_hides_no_finding(scope_of_closures):
    plain, _ = scope_of_closures(_of_half, is_plain=True)
    with_closure, _ = scope_of_closures(_of_half)
    assert [each.message for each in with_closure.findings] == [each.message for each in plain.findings]
    assert [each.code for each in with_closure.findings] == ["not-in-optimizer"]


def test_a_captured_gradient_is_that_of_the_closure(scope_of_closures):
    captures = []
    scope, last = scope_of_closures(
        lambda net: torch.optim.SGD(net.parameters(), lr=0.05),
        lambda scope: captures.append(scope.capture("2", "param_grad")),
    )
    newest = {each.name: each.tensor for each in captures[0].tensors() if each.step == scope.step - 1}
    assert torch.equal(newest["weight"], last)


def test_lbfgs_evaluates_its_closure_often_and_nothing_is_found(scope_of_closures):
    scope, _ = scope_of_closures(lambda net: torch.optim.LBFGS(net.parameters(), lr=0.1))
    assert scope.step == 12
    assert not scope.findings
    assert not scope.faults


def test_the_rule_skip_step_skips_the_step_of_a_closure(scope_of_closures):
    def skip(scope):
        scope.rule("exploding", action="skip_step", threshold=1e-9, patience=1)

    weights = []

    def make(net):
        weights.append((net[0].weight, net[0].weight.detach().clone()))
        return torch.optim.SGD(net.parameters(), lr=0.05)

    scope_of_closures(make, skip)
    now, at_start = weights[0]
    assert torch.equal(now, at_start)
