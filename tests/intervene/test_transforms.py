"""torch.func through models with interventions in force, and derivatives of what is done to values."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jvp, vmap

import gradscope
from gradscope.functional import clip_gradient_norm
from gradscope.intervene import activations

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("site", ["output", "input"])
@pytest.mark.parametrize(
    "install",
    [
        lambda s, site: s.reverse("2", site=site),
        lambda s, site: s.clip("2", max_norm=0.1, site=site),
        lambda s, site: s.scale("2", factor=2.0, when="norm > 0.1", site=site),
        lambda s, site: s.zero_activation("2", site=site),
        lambda s, site: s.intervene("2", torch.sign, site=site),
    ],
)
def test_per_sample_gradients_are_those_of_a_loop_over_samples(install, site):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x):
        return functional_call(model, parameters, (x.unsqueeze(0),)).square().sum()

    with gradscope.attach(model, hub=None, quiet=True) as scope:
        install(scope, site)
        per_sample = vmap(grad(loss), in_dims=(None, 0))(parameters, X)
        looped = [grad(loss)(parameters, x) for x in X]
        assert not scope.faults
        assert all(audit.what == "set" for audit in scope.history)
    for name, got in per_sample.items():
        torch.testing.assert_close(got, torch.stack([each[name] for each in looped]))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    ("change", "slope"),
    [
        (lambda x: activations.scaled(x, 0.5), lambda x: torch.full_like(x, 0.5)),
        (lambda x: activations.clamped_values(x, 0.5), lambda x: (x.abs() <= 0.5).to(x.dtype)),
        (activations.zeros, torch.zeros_like),
        (
            lambda x: activations.added_noise(x, 0.1, torch.Generator().manual_seed(0)),
            torch.ones_like,
        ),
    ],
)
def test_values_have_autograds_derivatives_forward_and_backward(change, slope):
    x = X.double()
    _, tangent = jvp(change, (x,), (torch.ones_like(x),))
    assert torch.equal(tangent, slope(x))
    leaf = x.clone().requires_grad_()
    assert torch.autograd.gradcheck(change, (leaf,))
    assert torch.autograd.gradgradcheck(change, (leaf,))


def test_a_backward_that_is_differentiated_in_turn_goes_through_an_intervention():
    def penalty(model):
        x = X.double().requires_grad_()
        (dx,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), model[0].weight)[0]

    def make_model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1)).double()

    model, twin = make_model(), make_model()
    twin[0].register_forward_hook(lambda _m, _a, out: clip_gradient_norm(out, 0.5))
    with gradscope.attach(model, hub=None, quiet=True) as scope:
        scope.clip("0", max_norm=0.5)
        assert torch.equal(penalty(model), penalty(twin))
        assert not torch.equal(penalty(model), penalty(make_model()))
