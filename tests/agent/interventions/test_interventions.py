"""Interventions set by a script: exact from the step in which they are in force, and gone after."""

import copy

import pytest
import torch
from torch import nn

import gradscope
from gradscope.errors import UnknownLayerError, UsageError
from support.hooks import finish_first_checks, hooks_seen_by_layers
from support.models import make_deep_model

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(5))


def gradients(model):
    model.zero_grad()
    model(X).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.fixture
def model():
    return make_deep_model(is_inplace=True)


@pytest.fixture
def control():
    """The gradients without gradscope, computed before a scope looks whether anything was computed."""
    return gradients(make_deep_model(is_inplace=True))


@pytest.fixture
def scope(control, model):
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        yield scope


UPSTREAM, DOWNSTREAM = ("0.weight", "0.bias", "2.weight", "2.bias"), ("4.weight", "4.bias")


@pytest.mark.parametrize(
    ("action", "arguments", "expected"),
    [
        ("reverse", {}, lambda g: -1 * g),
        ("reverse", {"alpha": 0.5}, lambda g: -0.5 * g),
        ("scale", {"factor": 4.0}, lambda g: 4.0 * g),
        ("scale", {"factor": 1.0}, lambda g: g),
        ("clip", {"max_norm": float("inf")}, lambda g: g),
        ("stop", {}, lambda g: 0 * g),
    ],
)
def test_all_upstream_gradients_are_changed_exactly_and_no_downstream_one(
    control, model, scope, action, arguments, expected
):
    with getattr(scope, action)("2", **arguments) as intervention:
        assert intervention.active_since == scope.step == 0
        changed = gradients(model)
    for name in UPSTREAM:
        assert torch.equal(changed[name], expected(control[name])), name
    for name in DOWNSTREAM:
        assert torch.equal(changed[name], control[name]), name


def test_clip_and_clamp_equal_the_formula_at_the_layers_output(model):
    arriving = []
    reference = make_deep_model(is_inplace=True)
    reference[2].register_forward_hook(
        lambda m, a, out: out.register_hook(lambda g: arriving.append(g.clone())) and None
    )
    gradients(reference)
    max_norm = arriving[0].norm().item() / 3
    for action, arguments, expected in [
        ("clip", {"max_norm": max_norm}, arriving[0] / 3),
        ("clamp", {"limit": 0.1}, arriving[0].clamp(-0.1, 0.1)),
    ]:
        with gradscope.attach(model, hub=None, quiet=True) as scope:
            getattr(scope, action)("2", **arguments)
            got = gradients(model)["2.bias"]
        torch.testing.assert_close(got, expected.sum(0), rtol=1e-6, atol=1e-6)


def test_the_gradient_is_shown_before_and_after_the_intervention(model, scope):
    with scope.scale("2", factor=3.0):
        gradients(model)
        scope.mark_step()
        rows = scope.latest()["2"]
    assert rows["grad"].norm == pytest.approx(3 * rows["grad_arriving"].norm, rel=1e-6)


def test_two_on_one_layer_act_in_the_order_in_which_they_were_set(control, model, scope):
    with scope.scale("2", factor=1000.0), scope.clamp("2", limit=1e-3):
        got = gradients(model)["2.bias"]
    assert got.abs().max() <= 7 * 1e-3 + 1e-9
    scope.mark_step()
    with scope.clamp("2", limit=1e9), scope.scale("2", factor=2.0):
        assert torch.equal(gradients(model)["2.bias"], 2 * control["2.bias"])


def test_set_in_the_middle_of_a_step_it_waits_for_the_next(control, model, scope):
    loss = model(X).square().sum()
    intervention = scope.reverse("2")
    assert intervention.active_since is None
    assert "pending" in repr(intervention)
    loss.backward()
    assert torch.equal(model[2].weight.grad, control["2.weight"])
    scope.mark_step()
    assert intervention.active_since == 1
    assert torch.equal(gradients(model)["2.weight"], -control["2.weight"])
    intervention.remove()
    assert not intervention.is_removed
    scope.mark_step()
    assert intervention.is_removed
    assert torch.equal(gradients(model)["2.weight"], control["2.weight"])


def test_it_acts_in_steps_that_are_not_observed_too(control, model):
    with gradscope.attach(model, every=100, hub=None, quiet=True) as scope:
        gradients(model)
        scope.mark_step()
        scope.reverse("2")
        assert torch.equal(gradients(model)["2.weight"], -control["2.weight"])
        scope.mark_step()
        assert scope.latest().step == 0


def test_noise_repeats_by_its_seed_and_leaves_the_global_random_state_alone(control, scope, model):
    state = torch.get_rng_state()
    with scope.noise("2", std=0.1, seed=3):
        first = gradients(model)["2.bias"]
    scope.mark_step()
    with scope.noise("2", std=0.1, seed=3):
        again = gradients(model)["2.bias"]
    assert torch.equal(first, again)
    assert not torch.equal(first, control["2.bias"])
    assert torch.equal(torch.get_rng_state(), state)


def test_a_layer_that_returns_its_input_in_a_residual_is_changed_exactly():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.same = nn.Identity()

        def forward(self, x):
            return x + self.same(x)

    model = nn.Sequential(nn.Linear(4, 4), Residual())
    control = gradients(copy.deepcopy(model))
    with gradscope.attach(model, hub=None, quiet=True) as scope, scope.reverse("1.same"):
        got = gradients(model)
    # d(x + R(x)) = 1 - 1 = 0, where without the reversal it is 2.
    assert control["0.weight"].abs().sum() > 0
    assert torch.equal(got["0.weight"], torch.zeros_like(got["0.weight"]))


def test_tuples_and_mappings_are_changed_in_each_of_their_tensors():
    torch.manual_seed(0)
    model = nn.LSTM(3, 4)
    x = torch.randn(5, 2, 3)

    def run():
        model.zero_grad()
        out, (h, c) = model(x)
        (out.sum() + 2 * h.sum() + 3 * c.sum()).backward()
        return [p.grad.clone() for p in model.parameters()]

    control = run()
    with gradscope.attach(model, hub=None, quiet=True) as scope, scope.reverse(""):
        assert all(torch.equal(a, -b) for a, b in zip(run(), control, strict=True))


def test_a_container_that_is_not_watched_can_be_changed(control, model):
    outer = nn.Sequential(model)
    with gradscope.attach(outer, hub=None, quiet=True) as scope, scope.reverse("0"):
        got = gradients(model)
    assert all(torch.equal(got[name], -control[name]) for name in control)


def test_the_layers_have_no_hook_in_steps_that_are_not_observed(model):
    x = torch.randn(3, 4)
    with gradscope.attach(model, every=100, hub=None, quiet=True) as scope:
        finish_first_checks(scope, model, x)
        assert hooks_seen_by_layers(model, x) == []
        intervention = scope.reverse("2")
        scope.mark_step()
        assert len(hooks_seen_by_layers(model, x)) == 1
        intervention.remove()
        scope.mark_step()
        assert hooks_seen_by_layers(model, x) == []


def test_active_interventions_are_listed_with_author_and_first_step(scope):
    scope.clip(["0", "2"], max_norm=1.0)
    (state,) = scope.interventions
    assert (state.id, state.action, state.layers) == ("clip-1", "clip", ("0", "2"))
    assert (state.arguments, state.set_by, state.active_since) == ({"max_norm": 1.0}, "script", 0)
    assert (state.choices, state.site, state.schedule) == ({"per": "tensor"}, "output", None)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda s: s.clip("0", max_norm=-1), UsageError, "max_norm must be a number of at least 0"),
        (lambda s: s.scale("0", factor=float("nan")), UsageError, "must be a finite number, got nan"),
        (lambda s: s.reverse("7"), UnknownLayerError, "no layer matches '7'; the nearest"),
        (lambda s: s.reverse("0", site="weights"), UsageError, "no site 'weights'; there are: output"),
        (
            lambda s: s.stop("0", steps=5),
            UsageError,
            "stop has no option 'steps'; its options are .*steps",
        ),
    ],
)
def test_an_invalid_intervention_is_refused_and_changes_nothing(scope, call, error, words):
    with pytest.raises(error, match=words):
        call(scope)
    assert scope.interventions == ()


class WithSpare(nn.Module):
    """A model with a layer that is never called."""

    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(4, 2), nn.Linear(1, 1)

    def forward(self, x):
        return self.used(x)


def test_an_intervention_that_cannot_act_says_so_once(caplog):
    model = WithSpare()
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        scope.reverse("spare")
        for _ in range(2):
            model(X).sum().backward()
            scope.mark_step()
    assert caplog.text.count("reverse-1 had no effect in step 0: spare had no output") == 1


def test_an_argument_among_the_options_is_refused_with_the_right_call(scope):
    with pytest.raises(UsageError, match=r'"scale", arguments=\{"factor": …\}'):
        scope.intervene("0", "scale", factor=0.1)


def test_layers_after_the_intervention_are_refused_with_the_right_order(scope):
    with pytest.raises(UsageError, match=r"expected the layers first .* use intervene\('0', 'scale'\)"):
        scope.intervene("scale", "0", arguments={"factor": 0.1})
