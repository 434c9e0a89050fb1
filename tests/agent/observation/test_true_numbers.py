"""Numbers that are easily wrong: loss scales, skipped iterations, closures, penalties, users' modes."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import gradscope
from gradscope.columns import Flags
from support.models import make_model

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(7))


def true_gradient_norms():
    """The norms of an unscaled backward pass: at the last layer's output, and of its weight."""
    model, arriving = make_model(), []
    out = model(X)
    out.register_hook(lambda g: arriving.append(g.double().norm().item()))
    out.square().mean().backward()
    return arriving[0], model[2].weight.grad.double().norm().item()


@pytest.mark.parametrize("optimizer_options", [{}, {"fused": True}], ids=["foreach", "fused"])
def test_gradients_under_a_loss_scale_are_shown_unscaled(optimizer_options):
    model, scaler = make_model(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.AdamW(model.parameters(), **optimizer_options)
    with gradscope.attach(model, scaler=scaler, every=1, hub=None, quiet=True) as scope:
        scaler.scale(model(X).square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        rows = scope.latest()["2"]
    at_output, of_weight = true_gradient_norms()
    assert rows["grad"].norm == pytest.approx(at_output, rel=1e-5)
    assert rows["param_grad.weight"].norm == pytest.approx(of_weight, rel=1e-5)


def test_an_iteration_skipped_by_the_scaler_is_not_part_of_the_next_step(caplog):
    model, scaler = make_model(), torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradscope.attach(model, scaler=scaler, every=1, hub=None, quiet=True) as scope:
        for factor in (1.0, float("inf"), 1.0):
            optimizer.zero_grad()
            scaler.scale(model(X).square().mean() * factor).backward()
            scaler.step(optimizer)
            scaler.update()
        assert scope.step == 2
        rows = scope.latest()["2"]
    assert (rows["grad"].calls, rows["grad"].nonfinite) == (1, 0)
    assert rows["grad"].norm == pytest.approx(true_gradient_norms()[0], rel=1e-5)


def test_without_the_scaler_gradients_under_half_autocast_are_marked_as_scaled():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        with torch.autocast("cpu", torch.float16):
            loss = model(X).float().square().mean()
        (loss * 1024).backward()
        optimizer.step()
        rows = scope.latest()["2"]
    assert Flags.SCALED in rows["grad"].flags
    assert Flags.SCALED not in rows["out"].flags


@pytest.mark.parametrize("is_keyword", [False, True])
def test_an_optimizer_with_a_closure_is_measured_after_each_evaluation(is_keyword):
    model = make_model()
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3, tolerance_grad=0, tolerance_change=0)
    norms, returned = [], []

    def closure():
        optimizer.zero_grad()
        loss = model(X).square().mean()
        loss.backward()
        norms.append(model[2].weight.grad.double().norm().item())
        return loss

    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        result = optimizer.step(closure=closure) if is_keyword else optimizer.step(closure)
        returned.append(result)
        rows = scope.latest()["2"]
    assert rows["param_grad.weight"].calls == len(norms) >= 3
    assert rows["param_grad.weight"].sumsq == pytest.approx(np.square(norms).sum(), rel=1e-6)
    assert rows["out"].calls == len(norms)
    assert returned[0].item() == pytest.approx(make_model()(X).square().mean().item())


def test_a_gradient_penalty_is_separate_from_the_gradient_of_the_loss():
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = X.clone().requires_grad_()
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        out = model(x)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        (out.square().mean() + slope.square().mean()).backward()
        optimizer.step()
        rows = scope.latest()["2"]
    assert rows["grad_create_graph"].calls == 1
    assert rows["grad_create_graph"].sum == out.numel()
    assert rows["grad"].norm == pytest.approx(true_gradient_norms()[0], rel=1e-5)


def test_a_users_mode_counts_the_same_with_and_without():
    counts = []
    for is_attached in (False, True):
        model = make_model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scope = gradscope.attach(model, every=1, hub=None, quiet=True) if is_attached else None
        with FlopCounterMode(display=False) as flops, Operations() as operations:
            model(X).square().mean().backward()
            optimizer.step()
        counts.append((flops.get_total_flops(), operations.names))
        if scope is not None:
            assert scope.latest()["0"]["grad"].is_measured
            scope.detach()
    assert counts[0] == counts[1]


class Operations(torch.utils._python_dispatch.TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_forward_under_torch_func_is_not_measured_and_not_changed():
    model = make_model()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters):
        return torch.func.functional_call(model, parameters, (X,)).square().mean()

    bare = torch.func.grad(loss)(parameters)
    with gradscope.attach(model, every=1, hub=None, quiet=True) as scope:
        attached = torch.func.grad(loss)(parameters)
        torch.func.vmap(model)(X)
        scope.mark_step()
        assert not scope.latest()["0"]["out"].is_measured
        assert scope.faults == {}
    assert all(torch.equal(bare[name], attached[name]) for name in bare)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
@pytest.mark.parametrize("native", ["1", "0"])
def test_a_model_with_a_scripted_layer_trains_the_same_and_is_measured(monkeypatch, native):
    monkeypatch.setenv("GRADSCOPE_NATIVE", native)

    def trained(*, is_watched):
        torch.manual_seed(3)
        scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.Tanh()))
        model = nn.Sequential(nn.Linear(4, 4), scripted, nn.Linear(4, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        x = torch.randn(5, 4)
        scope = gradscope.attach(model, every=1, hub=None, quiet=True) if is_watched else None
        for _ in range(3):
            optimizer.zero_grad()
            before = model[0].weight.detach().double()
            model(x).square().sum().backward()
            optimizer.step()
        table = scope.latest() if scope is not None else {}
        if scope is not None:
            assert scope.faults == {}
            scope.detach()
        return [p.detach() for p in model.parameters()], before, table

    bare, _, _ = trained(is_watched=False)
    watched, before, table = trained(is_watched=True)
    assert all(map(torch.equal, bare, watched))
    assert table["0"]["param.weight"].norm == pytest.approx(before.norm().item(), rel=1e-12)
    assert table["1"]["out"].is_measured
    assert table["1.0"]["update.weight"].is_measured
