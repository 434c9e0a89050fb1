"""Parameters around an optimizer's step, natively and eagerly, against NumPy in float64."""

import numpy as np
import pytest
import torch
from torch import nn

from gradscope.columns import Flags, Table
from gradscope.hooks import layers_of
from gradscope.observe import ParameterObserver, RowBuffer


@pytest.fixture(params=["native", "eager"], autouse=True)
def one_pass(request, monkeypatch):
    monkeypatch.setenv("GRADSCOPE_NATIVE", "1" if request.param == "native" else "0")


class Model(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.first = nn.Linear(5, 7, dtype=dtype)
        self.second = nn.Linear(7, 3, bias=False, dtype=dtype)
        self.second.weight.requires_grad_(False)

    def forward(self, x):
        return self.second(self.first(x))


def observed(model, change, *, is_full=False):
    buffer = RowBuffer(is_full=is_full)
    layers = layers_of(model)
    observer = ParameterObserver(buffer, layers)
    parameters = list(model.parameters())
    observer.before(parameters)
    change()
    observer.after()
    return Table(0, [layer.name for layer in layers], buffer.read_out().block())


def assert_measures(stats, x):
    x = np.asarray(x, np.float64).ravel()
    assert (stats.count, stats.min, stats.max) == (x.size, x.min(), x.max())
    assert stats.sum == pytest.approx(x.sum(), rel=1e-12, abs=1e-12 * np.abs(x).sum())
    assert stats.sumsq == pytest.approx(np.square(x).sum(), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_values_gradients_and_updates_equal_numpy_and_frozen_parameters_have_values_alone(dtype):
    model = Model(dtype)
    model(torch.randn(4, 5, dtype=dtype)).square().sum().backward()
    old = {n: p.detach().double().numpy().copy() for n, p in model.named_parameters()}
    table = observed(model, torch.optim.SGD(model.parameters(), lr=0.1).step)
    for name in ("weight", "bias"):
        parameter = getattr(model.first, name)
        new = parameter.detach().double().numpy()
        assert_measures(table["first"][f"param.{name}"], old[f"first.{name}"])
        assert_measures(table["first"][f"param_grad.{name}"], parameter.grad.double().numpy())
        assert_measures(table["first"][f"update.{name}"], new - old[f"first.{name}"])
    assert_measures(table["second"]["param.weight"], old["second.weight"])
    assert set(table["second"]) == {"param", "param.weight"}


def test_parameters_in_any_layout_are_measured():
    model = nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last)
    with torch.no_grad():
        model.bias.set_(torch.ones(16)[::2])
    model(torch.randn(2, 3, 5, 5)).square().sum().backward()
    old = {n: p.detach().double().numpy().copy() for n, p in model.named_parameters()}
    table = observed(model, torch.optim.SGD(model.parameters(), lr=0.1).step)
    for name, parameter in model.named_parameters():
        assert_measures(table[""][f"param.{name}"], old[name])
        assert_measures(table[""][f"update.{name}"], parameter.detach().double().numpy() - old[name])


def test_a_tied_parameter_is_measured_for_both_of_its_layers():
    model = Model()
    model.second.weight = nn.Parameter(torch.randn(7, 5))
    model.first.weight = model.second.weight
    model.second.weight.grad = torch.ones(7, 5)
    table = observed(model, lambda: None)
    for layer in ("first", "second"):
        assert table[layer]["param_grad.weight"].sum == 35
        assert table[layer]["update.weight"].sumsq == 0


def test_a_complex_parameter_is_measured_by_magnitude():
    model = nn.Module()
    model.weight = nn.Parameter(torch.tensor([3 + 4j, 0j]))
    model.weight.grad = torch.tensor([0j, 0j])

    def move():
        with torch.no_grad():
            model.weight.add_(torch.tensor([0j, 6 + 8j]))

    table = observed(model, move)
    assert table[""]["param.weight"].sum == pytest.approx(5)
    assert table[""]["update.weight"].sum == pytest.approx(10)


def test_a_lazy_parameter_is_reported_as_not_measured():
    model = nn.LazyLinear(3)
    table = observed(model, lambda: None)
    assert Flags.NOT_MEASURED in table[""]["param.weight"].flags


def test_zeros_of_an_update_are_counted_at_full_detail():
    model = nn.Linear(4, 2)
    model.weight.grad, model.bias.grad = torch.zeros(2, 4), torch.ones(2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    table = observed(model, optimizer.step, is_full=True)
    assert (table[""]["update.weight"].zero, table[""]["update.bias"].zero) == (8, 0)


def test_a_forgotten_step_has_no_update():
    model = Model()
    model(torch.randn(4, 5)).sum().backward()
    buffer = RowBuffer()
    observer = ParameterObserver(buffer, layers_of(model))
    observer.before(list(model.parameters()))
    observer.forget()
    observer.after()
    assert not any(kind.startswith("update") for kind in present_kinds(buffer))


def present_kinds(buffer):
    block = buffer.read_out().block()
    return {block.kinds[i] for i in block.kind}


def test_updates_are_not_measured_if_their_copies_would_take_too_much_memory(monkeypatch):
    monkeypatch.setattr("gradscope.observe.parameters._KEPT_BYTES", 0)
    monkeypatch.setattr("gradscope.observe.parameters._SHARE", 1e-12)
    model = Model()
    model(torch.randn(4, 5)).square().sum().backward()
    old = model.first.weight.detach().double().numpy().copy()
    table = observed(model, torch.optim.SGD(model.parameters(), lr=0.1).step)
    assert_measures(table["first"]["param.weight"], old)
    assert_measures(table["first"]["param_grad.weight"], model.first.weight.grad.double().numpy())
    assert table["first"]["update"].flags & Flags.NOT_MEASURED
    assert table["first"]["update.weight"].flags & Flags.NOT_MEASURED
