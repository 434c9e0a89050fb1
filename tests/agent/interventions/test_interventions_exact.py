"""Each intervention at each site on many kinds of module, against the same change made by hand.

The reference knows nothing of gradscope: an autograd Function of its own, put around the module in a
twin of the model; for `input` also PyTorch's full backward hook, for `params` the formula on `.grad`.
"""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import gradscope

pytestmark = pytest.mark.slow

MODULES = {
    "Linear": (lambda: nn.Linear(6, 6), (4, 6)),
    "Bilinear-like Sequential": (
        lambda: nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 6)),
        (4, 6),
    ),
    "Conv1d": (lambda: nn.Conv1d(3, 4, 3), (2, 3, 9)),
    "Conv2d": (lambda: nn.Conv2d(3, 4, 3, padding=1), (2, 3, 6, 6)),
    "Conv2d strided": (lambda: nn.Conv2d(3, 4, 3, stride=2, groups=1), (2, 3, 7, 7)),
    "Conv3d": (lambda: nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    "ConvTranspose2d": (lambda: nn.ConvTranspose2d(3, 2, 3), (2, 3, 5, 5)),
    "BatchNorm1d": (lambda: nn.BatchNorm1d(6), (8, 6)),
    "BatchNorm2d": (lambda: nn.BatchNorm2d(3), (4, 3, 5, 5)),
    "LayerNorm": (lambda: nn.LayerNorm(6), (4, 6)),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), (2, 4, 5)),
    "InstanceNorm2d": (lambda: nn.InstanceNorm2d(3, affine=True), (2, 3, 5, 5)),
    "RMSNorm": (lambda: nn.RMSNorm(6), (4, 6)),
    "ReLU": (nn.ReLU, (4, 6)),
    "LeakyReLU": (nn.LeakyReLU, (4, 6)),
    "PReLU": (nn.PReLU, (4, 6)),
    "GELU": (nn.GELU, (4, 6)),
    "SiLU": (nn.SiLU, (4, 6)),
    "Mish": (nn.Mish, (4, 6)),
    "Sigmoid": (nn.Sigmoid, (4, 6)),
    "Tanh": (nn.Tanh, (4, 6)),
    "Softmax": (lambda: nn.Softmax(-1), (4, 6)),
    "Softplus": (nn.Softplus, (4, 6)),
    "Hardswish": (nn.Hardswish, (4, 6)),
    "MaxPool2d": (lambda: nn.MaxPool2d(2), (2, 3, 6, 6)),
    "AvgPool2d": (lambda: nn.AvgPool2d(2), (2, 3, 6, 6)),
    "AdaptiveAvgPool2d": (lambda: nn.AdaptiveAvgPool2d(2), (2, 3, 6, 6)),
    "Flatten": (nn.Flatten, (2, 3, 4)),
    "Identity": (nn.Identity, (4, 6)),
    "Dropout eval": (lambda: nn.Dropout(0.5).eval(), (4, 6)),
    "PixelShuffle": (lambda: nn.PixelShuffle(2), (1, 4, 3, 3)),
    "Upsample": (lambda: nn.Upsample(scale_factor=2), (1, 2, 3, 3)),
    "GLU": (nn.GLU, (4, 6)),
    "LSTM": (lambda: nn.LSTM(6, 5, batch_first=True), (2, 4, 6)),
    "GRU": (lambda: nn.GRU(6, 5), (4, 2, 6)),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(6, 2), (4, 2, 6)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0), (4, 2, 6)),
}


class Around(nn.Module):
    """The module between a layer before and what comes after; some take their input three times."""

    def __init__(self, module: nn.Module, features: int) -> None:
        super().__init__()
        self.before = nn.Linear(features, features)
        self.inner = module

    def forward(self, x: Tensor) -> Tensor:
        h = self.before(x.transpose(-1, -1))
        several = (h, h, h) if isinstance(self.inner, nn.MultiheadAttention) else (h,)
        return weighted(self.inner(*several))


def flat(value: object) -> list[Tensor]:
    return (
        [value]
        if isinstance(value, Tensor)
        else [t for each in value for t in flat(each) if t is not None]
    )


def weighted(value: object) -> Tensor:
    """A loss whose gradient is another at each element and each output."""
    total = torch.zeros(())
    for i, tensor in enumerate(flat(value)):
        weights = torch.linspace(-1.0, 1.5, tensor.numel()).reshape(tensor.shape)
        total = total + (i + 1) * (tensor * weights).sum() + (tensor**2).sum() / 2
    return total


class ByHand(torch.autograd.Function):
    """The change of a gradient, made without gradscope."""

    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return ctx.change(dy), None


def mapped(value, function):
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(mapped(each, function) for each in value) if value is not None else None


ACTIONS = {
    "reverse": (lambda s, site: s.reverse("inner", site=site), lambda g: -g),
    "reverse 0.3": (lambda s, site: s.reverse("inner", alpha=0.3, site=site), lambda g: -g * 0.3),
    "scale": (lambda s, site: s.scale("inner", factor=-2.5, site=site), lambda g: g * -2.5),
    "scale 1": (lambda s, site: s.scale("inner", factor=1.0, site=site), lambda g: g),
    "clip": (
        lambda s, site: s.clip("inner", max_norm=0.5, site=site),
        lambda g: g * (0.5 / g.double().norm()).clamp(max=1.0).to(g.dtype),
    ),
    "clip inf": (lambda s, site: s.clip("inner", max_norm=math.inf, site=site), lambda g: g),
    "clamp": (lambda s, site: s.clamp("inner", limit=0.25, site=site), lambda g: g.clamp(-0.25, 0.25)),
    "stop": (lambda s, site: s.stop("inner", site=site), torch.zeros_like),
    "replace": (lambda s, site: s.replace_nonfinite("inner", site=site), lambda g: g),
    "own": (
        lambda s, site: s.intervene("inner", lambda g: g.sign() * g.abs().sqrt(), site=site),
        lambda g: g.sign() * g.abs().sqrt(),
    ),
    "while": (
        lambda s, site: s.scale("inner", factor=3.0, when="absmax > 0.1", site=site),
        lambda g: g * 3.0 if g.abs().max() > 0.1 else g,
    ),
}
EXACT = {name for name in ACTIONS if name != "clip"}


def made(name: str) -> tuple[Around, Tensor]:
    make, shape = MODULES[name]
    torch.manual_seed(0)
    model = Around(make(), shape[-1])
    return model, torch.randn(shape)


def gradients(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    x = x.clone().requires_grad_()
    torch.manual_seed(1)
    model(x).backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return {"x": x.grad, **found}


def assert_same(got, expected, *, is_exact: bool) -> None:
    assert got.keys() == expected.keys()
    for name in got:
        if is_exact:
            assert torch.equal(got[name], expected[name]), name
        else:
            torch.testing.assert_close(got[name], expected[name], rtol=2e-6, atol=1e-7, msg=name)


@pytest.mark.parametrize("name", MODULES)
def test_an_intervention_at_the_output_equals_the_function_applied_by_hand(name):
    model, x = made(name)
    state = copy.deepcopy(model.state_dict())
    control = gradients(copy.deepcopy(model), x)
    references = {}
    for action, (_, change) in ACTIONS.items():
        twin, _ = made(name)
        twin.inner.register_forward_hook(
            lambda _m, _a, out, change=change: mapped(out, lambda t: ByHand.apply(t, change))
        )
        references[action] = gradients(twin, x)
    with gradscope.attach(model, every=2, hub=None, quiet=True) as scope:
        for action, (install, _) in ACTIONS.items():
            model.load_state_dict(state)
            with install(scope, "output"):
                got = gradients(model, x)
            assert_same(got, references[action], is_exact=action in EXACT)
            scope.mark_step()
        model.load_state_dict(state)
        assert_same(gradients(model, x), control, is_exact=True)
        assert not scope.faults


@pytest.mark.parametrize("name", MODULES)
def test_an_intervention_at_the_input_equals_the_function_by_hand_and_a_full_backward_hook(name):
    model, x = made(name)
    state = copy.deepcopy(model.state_dict())
    by_hand, by_hook = {}, {}
    for action, (_, change) in ACTIONS.items():
        twin, _ = made(name)
        twin.inner.register_forward_pre_hook(
            lambda _m, args, change=change: mapped(args, lambda t: ByHand.apply(t, change))
        )
        by_hand[action] = gradients(twin, x)
        hooked, _ = made(name)
        hooked.inner.register_full_backward_hook(
            lambda _m, given, _out, change=change: tuple(
                None if g is None else change(g) for g in given
            )
        )
        by_hook[action] = gradients(hooked, x)
    with gradscope.attach(model, every=2, hub=None, quiet=True) as scope:
        for action, (install, _) in ACTIONS.items():
            model.load_state_dict(state)
            with install(scope, "input"):
                got = gradients(model, x)
            assert_same(got, by_hand[action], is_exact=action in EXACT)
            # A tensor given three times: PyTorch's hook sums its gradients in another order.
            is_once = name != "MultiheadAttention"
            assert_same(got, by_hook[action], is_exact=is_once and action in EXACT)
            scope.mark_step()
        assert not scope.faults
    assert not model.inner._forward_pre_hooks_with_kwargs


@pytest.mark.parametrize(
    "name", [n for n in MODULES if next(MODULES[n][0]().parameters(), None) is not None]
)
def test_at_the_parameters_it_is_the_formula_and_nothing_else_is_touched(name):
    model, x = made(name)
    state = copy.deepcopy(model.state_dict())
    control = gradients(copy.deepcopy(model), x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradscope.attach(model, optimizer, every=2, hub=None, quiet=True) as scope:
        for action, (install, change) in ACTIONS.items():
            model.load_state_dict(state)
            with install(scope, "params"):
                gradients(model, x)
                optimizer.step()
                got = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
            for n, gradient in got.items():
                expected = change(control[n]) if n.startswith("inner.") else control[n]
                if action in EXACT:
                    assert torch.equal(gradient, expected), (action, n)
                else:
                    torch.testing.assert_close(gradient, expected, rtol=2e-6, atol=1e-7)
        assert not scope.faults
