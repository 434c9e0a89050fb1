"""When an intervention of a script acts, seen in the gradients of each step; functions of its own."""

import math
from typing import Literal

import pytest
import torch

import gradscope
from gradscope.errors import UsageError
from gradscope.intervene import Ramp, register_action
from support.models import make_model

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(5))
UP = "0.weight"


def gradients(model):
    model.zero_grad()
    model(X).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.fixture
def control():
    return gradients(make_model())


@pytest.fixture
def model(control):
    return make_model()


@pytest.fixture
def scope(model):
    with gradscope.attach(model, every=3, hub=None, quiet=True) as scope:
        yield scope


def factors(scope, model, control, steps=8):
    """The number by which the gradient above the layer was multiplied, step by step."""
    found = []
    for _ in range(steps):
        found.append((gradients(model)[UP] / control[UP]).mean().item())
        scope.mark_step()
    return found


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, [2, 2, 2, 2, 2, 2, 2, 2]),
        ({"start_step": 3}, [1, 1, 1, 2, 2, 2, 2, 2]),
        ({"end_step": 3}, [2, 2, 2, 1, 1, 1, 1, 1]),
        ({"every_steps": 3}, [2, 1, 1, 2, 1, 1, 2, 1]),
        ({"start_step": 1, "every_steps": 2, "end_step": 6}, [1, 2, 1, 2, 1, 2, 1, 1]),
        ({"for_steps": 2, "start_step": 4}, [1, 1, 1, 1, 2, 2, 1, 1]),
        ({"ramp": "factor=1:2:4"}, [1, 1.25, 1.5, 1.75, 2, 2, 2, 2]),
        ({"ramp": Ramp("factor", 1.0, 3.0, 2), "start_step": 2}, [1, 1, 1, 2, 3, 3, 3, 3]),
    ],
)
def test_it_acts_in_the_steps_and_with_the_strength_that_was_said(scope, model, control, how, expected):
    intervention = scope.scale("2", factor=2.0, **how)
    got = factors(scope, model, control)
    assert got == pytest.approx(expected, abs=1e-6)
    assert intervention.is_removed == ("end_step" in how or "for_steps" in how)
    assert not scope.faults


@pytest.mark.parametrize("site", ["output", "input", "params"])
def test_it_acts_while_the_condition_holds_of_what_arrives(model, site):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradscope.attach(model, optimizer, hub=None, quiet=True) as scope:
        scope.scale("2", factor=2.0, when="norm > 50", site=site)
        for size in (1.0, 1e3, 1.0, 1e3):
            optimizer.zero_grad()
            (model(X).square().sum() * size).backward()
            optimizer.step()
            got = model[2].weight.grad if site == "params" else model[0].weight.grad
            twin = make_model()
            (twin(X).square().sum() * size).backward()
            expected = twin[2].weight.grad if site == "params" else twin[0].weight.grad
            assert torch.equal(got, expected * (2.0 if size > 1 else 1.0))


def test_a_backward_that_comes_later_keeps_the_strength_of_its_forward(scope, model, control):
    scope.scale("2", factor=1.0, ramp="factor=2:4:2")
    loss = model(X).square().sum()
    scope.mark_step()
    scope.mark_step()
    model.zero_grad()
    loss.backward()
    assert torch.equal(model[0].weight.grad, control[UP] * 2)


def test_a_time_to_live_ends_it_by_the_clock(scope, model, control, wait_until):
    intervention = scope.reverse("2", for_s=0.05)
    assert torch.equal(gradients(model)[UP], -control[UP])

    def is_over():
        scope.mark_step()
        return intervention.is_removed

    wait_until(is_over, "the end of the time to live")
    assert torch.equal(gradients(model)[UP], control[UP])
    assert [audit.what for audit in scope.history] == ["set", "ended"]


def test_a_schedule_is_shown(scope):
    scope.reverse("2", start_step=5, every_steps=2, ramp="alpha=0:1:1000:dann", when="norm > 1")
    (state,) = scope.interventions
    assert state.active_since == 5
    assert gradscope.protocol.schedule_in_words(state.schedule) == (
        "from step 5, every 2 steps, alpha 0 to 1 in 1000 steps (dann), while norm > 1"
    )


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"start_step": -1}, "start_step must be an integer of at least 0, got -1"),
        ({"end_step": 2.5}, "end_step must be an integer"),
        ({"for_steps": 0}, "must last more than 0 steps, got 0"),
        ({"for_s": math.nan}, "must last more than 0 seconds"),
        ({"ramp": "alpha=1:2:3"}, "expected a ramp of one of the numeric arguments"),
        ({"when": "import os"}, "expected one of .*, got 'import' at character 1"),
    ],
)
def test_a_time_that_cannot_be_is_refused(scope, how, words):
    with pytest.raises(UsageError, match=words):
        scope.scale("2", factor=2.0, **how)
    assert scope.interventions == ()


class Doubled(torch.autograd.Function):
    """Twice the value forward, three times the gradient back."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, dy):
        return dy * 3


def test_a_function_of_ones_own_is_given_the_gradient_and_a_function_class_the_value(model, scope):
    twin = make_model()
    twin[0].register_forward_hook(lambda _m, _a, out: Doubled.apply(out))
    with scope.intervene("0", Doubled):
        got, expected = gradients(model), gradients(twin)
        assert all(torch.equal(got[name], expected[name]) for name in got)
    scope.mark_step()
    seen = []
    with scope.intervene("2", lambda g: seen.append(g.shape) or g * 7):
        gradients(model)
    assert seen == [(7, 2)]


def noisy_sign(
    gradient: torch.Tensor,
    *,
    gain: float = 2.0,
    times: int = 1,
    is_off: bool = False,
    kind: Literal["sign", "same"] = "sign",
) -> torch.Tensor:
    """The sign of the gradient, amplified."""
    assert isinstance(times, int)
    base = gradient.sign() if kind == "sign" else gradient
    return gradient if is_off else base * gain * times


def test_a_registered_function_takes_typed_parameters_from_its_signature(scope, model, control):
    action = register_action("noisy_sign", noisy_sign, ranges={"gain": (0.0, 10.0)})
    assert [(a.name, a.kind, a.default) for a in action.spec.arguments] == [
        ("gain", "number", 2.0),
        ("times", "whole", 1.0),
        ("is_off", "yes", False),
        ("kind", "choice", "sign"),
    ]
    assert action.spec.help == "The sign of the gradient, amplified."
    with scope.intervene("2", "noisy_sign", arguments={"gain": 5, "times": 3, "kind": "same"}):
        torch.testing.assert_close(gradients(model)[UP], control[UP] * 15)
    for bad in ({"gain": 11}, {"times": 1.5}, {"is_off": "no"}, {"kind": "cube"}, {"loud": 1}):
        with pytest.raises(UsageError, match=rf"noisy_sign.*{next(iter(bad))}"):
            scope.intervene("2", "noisy_sign", arguments=bad)


@pytest.mark.parametrize(
    ("name", "function", "words"),
    [
        ("clip", noisy_sign, "is gradscope's own intervention"),
        ("Not a name", noisy_sign, "is a word of small letters"),
        ("fine", 7, "is a function of a gradient or a subclass"),
        ("fine", lambda g, other: g, "must be annotated as float, int, bool or Literal"),
    ],
)
def test_what_cannot_be_registered_is_refused(name, function, words):
    with pytest.raises(UsageError, match=words):
        register_action(name, function)


def raises(gradient):
    raise RuntimeError("no")


class ForwardNaN(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * math.nan

    @staticmethod
    def backward(ctx, dy):
        return dy


@pytest.mark.parametrize("site", ["output", "input", "params"])
@pytest.mark.parametrize(
    ("function", "words"),
    [
        (raises, "RuntimeError: no"),
        (lambda g: g.sum(), "must return a tensor like it"),
        (lambda g: g.double(), "got torch.float64"),
        (lambda g: None, "got NoneType"),
        (lambda g: g * math.nan, "returned NaN for an input without NaN"),
        (ForwardNaN, "returned NaN for an input without NaN"),
    ],
)
def test_a_function_that_fails_is_taken_off_and_that_gradient_stays(
    caplog, function, words, site, control
):
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradscope.attach(model, optimizer, hub=None, quiet=True) as scope:
        if function is ForwardNaN and site == "params":
            with pytest.raises(UsageError, match="cannot be used with site='params'"):
                scope.intervene("2", function, site=site)
            return
        intervention = scope.intervene("2", function, site=site)
        for _ in range(3):
            got = gradients(model)
            optimizer.step()
            got = {n: p.grad for n, p in model.named_parameters()}
            assert all(torch.equal(got[name], control[name]) for name in control)
        assert intervention.is_removed
        assert words in intervention.failure
        assert [audit.what for audit in scope.history] == ["set", "failed", "removed"]
    assert caplog.text.count("was removed") == 1


def test_nan_in_the_gradient_is_not_a_fault_of_the_function(scope, model):
    intervention = scope.intervene("2", lambda g: g * 2)
    model.zero_grad()
    (model(X).sum() * math.nan).backward()
    scope.mark_step()
    assert intervention.failure == ""
