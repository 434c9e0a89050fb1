"""With memory and time measured in every step, a training is bitwise what it is without gradscope."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils.checkpoint import checkpoint

import gradscope
from gradscope.hooks import CallHooks, SlotTable
from support.hooks import finish_first_checks, hooks_seen_by_layers


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True, dropout=0.1)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class InPlaceOnViews(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)

    def forward(self, x):
        x = self.linear(x)
        x[:, :4].sigmoid_()
        return x + 1


class Checkpointing(nn.Module):
    def __init__(self, *, is_reentrant: bool) -> None:
        super().__init__()
        self.first, self.inner = nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.2))
        self.is_reentrant = is_reentrant

    def forward(self, x):
        return checkpoint(self.inner, self.first(x), use_reentrant=self.is_reentrant)


class Penalised(nn.Module):
    """Its output holds the gradient of an inner loss: backward runs twice through the same graph."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x):
        x = x.clone().requires_grad_()
        out = self.net(x)
        (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
        return out + slope.square().sum(1, keepdim=True)


class Offloading(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))

    def forward(self, x):
        with torch.autograd.graph.save_on_cpu():
            return self.net(x)


class PerSample(nn.Module):
    """Per-sample gradients by torch.func inside of the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(8, 4)

    def forward(self, x):
        slopes = torch.func.vmap(torch.func.grad(lambda row: self.net(row).square().sum()))(x)
        return self.net(x) + slopes.detach().mean()


def rows() -> torch.Tensor:
    return torch.randn(4, 8)


def images() -> torch.Tensor:
    return torch.randn(2, 3, 12, 12)


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], torch.Tensor]]] = {
    "MLP with dropout": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3), nn.Linear(8, 4)),
        rows,
    ),
    "convolutions, in-place ReLU": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Flatten()
        ),
        images,
    ),
    "LSTM": (
        lambda: _first(nn.LSTM(8, 6, 2, dropout=0.1, batch_first=True)),
        lambda: torch.randn(2, 5, 8),
    ),
    "GRU": (lambda: _first(nn.GRU(8, 6, batch_first=True)), lambda: torch.randn(2, 5, 8)),
    "attention": (Attention, lambda: torch.randn(2, 5, 16)),
    "transformer layer": (
        lambda: nn.TransformerEncoderLayer(16, 4, 32, batch_first=True),
        lambda: torch.randn(2, 5, 16),
    ),
    "in-place on views": (InPlaceOnViews, rows),
    "checkpoint": (lambda: Checkpointing(is_reentrant=False), rows),
    "reentrant checkpoint": (lambda: Checkpointing(is_reentrant=True), rows),
    "gradient penalty": (Penalised, rows),
    "offloading hooks": (Offloading, rows),
    "torch.func inside": (PerSample, rows),
    "double precision": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.Softmax(-1)).double(),
        lambda: rows().double(),
    ),
    "bfloat16": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.GELU()).bfloat16(),
        lambda: rows().bfloat16(),
    ),
}


class _First(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)[0]


def _first(inner: nn.Module) -> nn.Module:
    return _First(inner)


def trained(make_model, make_batch, *, is_attached: bool) -> list[object]:
    """Train for three steps of two backward passes each; return everything that must be the same."""
    torch.manual_seed(3)
    model = make_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    options = {"hub": None, "quiet": True, "every": 1, "resources_every": 1}
    scope = gradscope.attach(model, **options) if is_attached else None
    kept: list[object] = []
    for _ in range(3):
        optimizer.zero_grad()
        for _ in range(2):
            loss = model(make_batch()).square().mean()
            loss.backward()
            kept.append(loss.detach())
        kept += [p.grad.clone() for p in model.parameters()]
        optimizer.step()
        if scope is not None:
            assert scope.memory().step == scope.step - 1
            assert scope.memory()[""].saved_bytes is not None
            assert scope.times()[""].total.backward_s > 0
    if scope is not None:
        scope.detach()
        assert scope.faults == {}
    kept += [copy.deepcopy(value) for value in model.state_dict().values()]
    return [*kept, torch.get_rng_state()]


@pytest.mark.parametrize("name", MODELS)
def test_a_training_is_bitwise_the_same(name):
    bare = trained(*MODELS[name], is_attached=False)
    attached = trained(*MODELS[name], is_attached=True)
    assert len(bare) == len(attached)
    assert all(torch.equal(a, b) for a, b in zip(bare, attached, strict=True))


def test_torch_keeps_nothing_of_the_hooks():
    def ignore(*_):
        pass

    names = (
        "_global_forward_hooks", "_global_forward_pre_hooks", "_global_forward_hooks_with_kwargs",
        "_global_forward_hooks_always_called",
    )  # fmt: skip
    before = {name: dict(getattr(torch_module, name)) for name in names}
    model = nn.Linear(2, 2)
    hooks = CallHooks(SlotTable([(model, 0)]), ignore, ignore, ignore)
    hooks.install()
    model(torch.randn(1, 2))
    hooks.remove()
    assert {name: dict(getattr(torch_module, name)) for name in names} == before


def test_between_two_measured_steps_there_are_no_hooks(monkeypatch):
    # once anything was compiled in the process they stay, and another test may have done that
    monkeypatch.setattr("gradscope.agent.inspection.resources.has_compiled", lambda: False)
    monkeypatch.setattr("gradscope.agent.step.engine.has_compiled", lambda: False)
    model = nn.Linear(4, 4)
    with gradscope.attach(model, every=1000, hub=None, quiet=True) as scope:
        finish_first_checks(scope, model, torch.randn(2, 4))
        assert hooks_seen_by_layers(model, torch.randn(2, 4)) == []  # neither observed nor measured


def test_an_internal_error_stops_measuring_and_not_training(monkeypatch, caplog):
    from gradscope.resources import probe  # only to be broken

    monkeypatch.setattr(probe, "operations_behind", lambda _: 1 / 0)
    model = nn.Linear(4, 4)
    with gradscope.attach(model, every=1000, hub=None, quiet=True) as scope:
        finish_first_checks(scope, model, torch.randn(2, 4))
        assert scope.faults["measuring memory and time"] == 1
        with pytest.raises(gradscope.errors.NotMeasuredError, match="switched off"):
            scope.times()
        assert hooks_seen_by_layers(model, torch.randn(2, 4)) == []
    assert "This plugin is switched off" in caplog.text


def test_a_compiled_model_is_said_to_be_unknown_and_its_parameters_are_known():
    torch._dynamo.reset()
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    with gradscope.attach(model, hub=None, quiet=True, every=1) as scope:
        compiled = torch.compile(model, backend="aot_eager")
        for _ in range(3):
            compiled(rows()).square().sum().backward()
            scope.mark_step()
        table = scope.memory()
        assert table[""].total.saved_bytes is None
        assert table[""].total.param_bytes == sum(p.nbytes for p in model.parameters())
        assert table.notes[0].startswith("no call of a layer was observed: the model is compiled")
        assert scope.faults == {}
    torch._dynamo.reset()
