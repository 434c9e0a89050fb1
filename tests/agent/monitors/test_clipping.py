"""Gradients before the script clips them: kept apart from what the optimizer is given."""

import time

import pytest
import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_  # bound before any scope is there

import gradscope
from gradscope.protocol import Scalars
from support.models import make_model

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(7))


def bare_gradients(factor=1.0):
    model = make_model()
    (model(X).square().mean() * factor).backward()
    return {name: p.grad.double() for name, p in model.named_parameters()}


def one_step(clip, *, scaler=None, unscales=True, **attach_options):
    """Return the rows of one clipped step, and the gradients that the optimizer was given."""
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    options = {"every": 1, "hub": None, "quiet": True, "scaler": scaler, **attach_options}
    with gradscope.attach(model, **options) as scope:
        loss = model(X).square().mean() * 100
        (scaler.scale(loss) if scaler else loss).backward()
        if scaler and unscales:
            scaler.unscale_(optimizer)
        clip(model.parameters())
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        rows = scope.latest()
        assert scope.faults == {}
    return rows, {name: p.grad.double() for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    "clip",
    [lambda ps: clip_grad_norm_(ps, 0.5), lambda ps: clip_grad_value_(list(ps), 0.1)],
    ids=["norm", "value"],
)
def test_gradients_are_measured_before_and_after_clipping(clip):
    rows, given = one_step(clip)
    before = bare_gradients(100.0)
    for layer in ("0", "2"):
        for name in ("weight", "bias"):
            whole = f"{layer}.{name}"
            seen = rows[layer][f"param_grad_before_clip.{name}"]
            assert seen.norm == pytest.approx(before[whole].norm().item(), rel=1e-5)
            assert seen.absmax == pytest.approx(before[whole].abs().max().item(), rel=1e-5)
            assert rows[layer][f"param_grad.{name}"].norm == pytest.approx(
                given[whole].norm().item(), rel=1e-5
            )
        assert rows[layer]["param_grad_before_clip"].norm > rows[layer]["param_grad"].norm


def test_a_step_without_clipping_has_no_before_clip_row():
    rows, _ = one_step(lambda _ps: None)
    assert not [kind for layer in rows.values() for kind in layer if "before_clip" in kind]


def test_clipping_twice_keeps_the_gradients_before_the_first():
    def clip(parameters):
        parameters = list(parameters)
        clip_grad_norm_(parameters, 0.5)
        clip_grad_norm_(parameters, 0.1)

    rows, _ = one_step(clip)
    before = bare_gradients(100.0)["0.weight"]
    seen = rows["0"]["param_grad_before_clip.weight"]
    assert (seen.calls, seen.count) == (1, before.numel())
    assert seen.norm == pytest.approx(before.norm().item(), rel=1e-5)


@pytest.mark.parametrize("unscales", [True, False], ids=["unscaled first", "still scaled"])
def test_clipped_gradients_under_a_loss_scale_are_correct_with_and_without_unscale(unscales):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    rows, _ = one_step(lambda ps: clip_grad_norm_(ps, 1e9), scaler=scaler, unscales=unscales)
    expected = bare_gradients(100.0)["0.weight"].norm().item()
    assert rows["0"]["param_grad_before_clip.weight"].norm == pytest.approx(expected, rel=1e-5)
    assert rows["0"]["param_grad.weight"].norm == pytest.approx(expected, rel=1e-5)


def test_the_norm_computed_by_clipping_is_reported_for_each_step(places, ended_hubs):
    model, told, norms = make_model(), {}, []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    deadline_s = time.monotonic() + 60
    with gradscope.attach(model, name="clipped", every=100, record=False, quiet=True):
        while True:
            try:
                client = gradscope.connect("clipped")
                break
            except gradscope.errors.NothingToConnectError:
                assert time.monotonic() < deadline_s
        with client:
            client.watch("clipped")
            for _ in range(3):
                optimizer.zero_grad()
                model(X).square().mean().backward()
                norms.append(clip_grad_norm_(model.parameters(), 0.5).item())
                optimizer.step()
            while len(told) < 3 and time.monotonic() < deadline_s:
                for message in client.receive(0.1):
                    if isinstance(message, Scalars):
                        told |= zip(message.steps, message.values["grad_norm_before_clip"], strict=True)
    assert [told[step] for step in range(3)] == pytest.approx(norms, rel=1e-7)


def test_clipping_the_gradients_of_another_model_is_not_recorded():
    model, other = make_model(), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        model(X).sum().backward()
        other(X).sum().backward()
        clip_grad_norm_(other.parameters(), 0.5)
        optimizer.step()
        assert "param_grad_before_clip" not in scope.latest()["0"]


def test_clipping_is_bitwise_the_same_and_torch_functions_are_restored():
    cells = [f.__closure__[0].cell_contents for f in (clip_grad_norm_, clip_grad_value_)]
    clips = [lambda ps: clip_grad_norm_(ps, 0.5, 3.0), lambda ps: clip_grad_value_(ps, 0.01)]
    for clip in clips:
        bare = make_model()
        (bare(X).square().mean() * 100).backward()
        clip(bare.parameters())
        _, given = one_step(clip)
        for name, p in bare.named_parameters():
            assert torch.equal(given[name], p.grad.double())
    first, second = make_model(), make_model()
    scopes = [gradscope.attach(model, hub=None, quiet=True) for model in (first, second)]
    for scope in scopes:  # the first that came goes first
        scope.detach()
    assert [f.__closure__[0].cell_contents for f in (clip_grad_norm_, clip_grad_value_)] == cells
    by_norm = torch.nn.utils.clip_grads_with_norm_.__closure__[0].cell_contents
    assert by_norm.__module__ == "torch.nn.utils.clip_grad"


def test_the_foreach_error_of_clipping_propagates_unchanged():
    model = make_model()
    with gradscope.attach(model, every=1, hub=None, quiet=True):
        (model(X).sum() * float("inf")).backward()
        with pytest.raises(RuntimeError, match="non-finite"):
            clip_grad_norm_(model.parameters(), 0.5, error_if_nonfinite=True)
