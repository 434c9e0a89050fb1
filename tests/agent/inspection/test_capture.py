"""Captured tensors are the very numbers that the layer computed, and taking them changes nothing."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import gradscope
from gradscope.agent.inspection import capture as capture_module
from gradscope.errors import UnknownLayerError, UsageError
from support.models import make_deep_model

X = torch.randn(7, 4, generator=torch.Generator().manual_seed(5))


@pytest.fixture
def model():
    return make_deep_model(is_inplace=True)


@pytest.fixture
def optimizer(model):
    return torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.fixture
def scope(model, optimizer):
    with gradscope.attach(model, optimizer, every=1000, hub=None, quiet=True) as scope:
        yield scope
        assert scope.faults == {}


def step(model, optimizer):
    optimizer.zero_grad()
    loss = model(X).square().mean()
    loss.backward()
    optimizer.step()
    return loss.detach()


def test_a_captured_activation_equals_the_layers_output(model, optimizer, scope):
    capture = scope.capture("2")
    with torch.no_grad():  # the step has not begun to compute, by autograd's own count
        expected = nn.Sequential(*list(make_deep_model(is_inplace=True))[:3])(X)
    step(model, optimizer)
    (captured,) = capture.tensors()
    assert (captured.step, captured.layer, captured.name) == (0, "2", "")
    assert torch.equal(captured.tensor, expected)


def test_a_captured_gradient_includes_interventions_at_the_output(model, optimizer):
    control = make_deep_model(is_inplace=True)
    hidden = control[1](control[0](X))
    hidden.retain_grad()
    nn.Sequential(*list(control)[2:])(hidden).square().mean().backward()
    with gradscope.attach(model, optimizer, every=1000, hub=None, quiet=True) as scope:
        scope.scale("1", factor=0.5)
        capture = scope.capture("1", "gradient")
        step(model, optimizer)
    (captured,) = capture.tensors()
    assert torch.equal(captured.tensor, hidden.grad * 0.5)


def test_captured_parameter_gradients_are_the_ones_that_the_optimizer_received(model, optimizer, scope):
    capture = scope.capture("4", "param_grad")
    optimizer.zero_grad()
    model(X).square().mean().backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    kept = {name: p.grad.clone() for name, p in model[4].named_parameters()}
    optimizer.step()
    found = {captured.name: captured.tensor for captured in capture.tensors()}
    assert found.keys() == {"weight", "bias"}
    assert all(torch.equal(found[name], kept[name]) for name in kept)


def test_capture_every_n_steps_keeps_the_newest_and_stops_after_remove(model, optimizer, scope):
    capture = scope.capture("0", every=2, keep=2)
    for _ in range(7):
        step(model, optimizer)
    assert [captured.step for captured in capture.tensors()] == [4, 6]
    capture.remove()
    step(model, optimizer)
    step(model, optimizer)
    assert [captured.step for captured in capture.tensors()] == [4, 6]


def test_capturing_everything_is_harmless_bitwise():
    def trained(*, is_captured):
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.ReLU(inplace=True), nn.Linear(8, 2))
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        if is_captured:
            scope = gradscope.attach(model, optimizer, every=3, hub=None, quiet=True)
            captures = [scope.capture("*", what) for what in ("activation", "gradient", "param_grad")]
        losses = [step(model, optimizer) for _ in range(10)]
        if is_captured:
            assert all(len(capture.tensors()) for capture in captures)
            scope.detach()
            assert not torch.nn.modules.module._global_forward_hooks
        return [*losses, *(p.detach() for p in model.parameters()), torch.get_rng_state()]

    pairs = zip(trained(is_captured=False), trained(is_captured=True), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_recomputation_of_a_checkpoint_is_not_captured():
    class Checkpointed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    model = Checkpointed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, optimizer, every=1000, hub=None, quiet=True) as scope:
        capture = scope.capture("inner")
        step(model, optimizer)
        assert len(capture.tensors()) == 1


def test_captures_are_bounded_and_omissions_are_reported(model, optimizer, scope, monkeypatch):
    monkeypatch.setattr(capture_module, "_LIMIT_BYTES", 200)
    capture = scope.capture(["0", "2"])
    step(model, optimizer)
    assert [captured.layer for captured in capture.tensors()] == ["0"]
    assert capture.size_bytes == 7 * 5 * 4
    assert "would exceed the 200 bytes that all captures of a run may hold" in capture.skipped[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"what": "weights"}, "one of activation, gradient, param_grad"),
        ({"every": 0}, "expected every to be an integer of at least 1"),
        ({"keep": True}, "expected keep to be an integer of at least 1"),
    ],
)
def test_invalid_captures_are_rejected(scope, arguments, words):
    with pytest.raises(UsageError, match=words):
        scope.capture("0", **arguments)
    with pytest.raises(UnknownLayerError):
        scope.capture("nowhere")
