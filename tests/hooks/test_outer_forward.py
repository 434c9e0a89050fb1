"""The hook around a model's own forward: what it is given, and that it leaves nothing behind."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.utils.checkpoint import checkpoint

from gradscope.hooks import OuterForwardHook, quiet_about_global_hooks


class Doubling(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor, *, factor: float = 1.0) -> torch.Tensor:
        if factor < 0:
            raise ValueError("negative")
        return self.inner(x) * factor


class Calls:
    """The calls of a hook on a model."""

    def __init__(self, model: nn.Module) -> None:
        self.entered: list[tuple[nn.Module, tuple[object, ...]]] = []
        self.left: list[tuple[dict[str, object] | None, object]] = []
        self.others: list[nn.Module] = []
        owned = set(model.modules())
        self.hook = OuterForwardHook(
            lambda module: module in owned,
            lambda module, args: self.entered.append((module, args)),
            lambda _, kwargs, output: self.left.append((kwargs, output)),
            lambda module, _: self.others.append(module),
        )


@pytest.fixture
def model() -> Doubling:
    return Doubling()


@pytest.fixture
def calls(model) -> Iterator[Calls]:
    made = Calls(model)
    made.hook.install()
    yield made
    made.hook.remove()
    assert not torch_module._global_forward_pre_hooks
    assert not model._forward_hooks
    assert not model._forward_hooks_with_kwargs
    assert not model._forward_hooks_always_called


def test_a_hook_that_is_removed_during_a_forward_is_not_called_after_it(model, calls):
    forward = model.inner.forward
    model.inner.forward = lambda x: (calls.hook.remove(), forward(x))[1]
    output = model(torch.randn(2, 3), factor=2.0)
    assert output.shape == (2, 3)
    assert len(calls.entered) == 1
    assert calls.left == []


def test_it_gives_arguments_and_output_of_each_forward_of_the_model_only(model, calls):
    x = torch.randn(2, 3)
    first, second = model(x, factor=2.0), model(x)
    assert [(module, args[0] is x) for module, args in calls.entered] == [(model, True)] * 2
    assert calls.left[0][0] == {"factor": 2.0}
    assert [output for _, output in calls.left] == [first, second]


def test_the_part_that_a_script_calls_is_entered_as_itself(model, calls):
    model.inner(torch.randn(2, 3))
    assert calls.entered[0][0] is model.inner


def test_a_module_outside_of_the_model_is_reported_apart(model, calls):
    criterion = nn.MSELoss()
    criterion(model(torch.randn(2, 3)), torch.zeros(2, 3))
    assert calls.others == [criterion]


def test_a_wrapper_does_not_hide_the_model(model, calls):
    nn.Sequential(nn.Tanh(), model)(torch.randn(2, 3))
    assert [module for module, _ in calls.entered] == [model]


def test_a_forward_that_raises_is_left_and_the_next_one_entered(model, calls):
    with pytest.raises(ValueError, match="negative"):
        model(torch.randn(2, 3), factor=-1.0)
    assert calls.left == [({"factor": -1.0}, None)]
    model(torch.randn(2, 3))
    assert len(calls.entered) == len(calls.left) == 2


def test_evaluation_and_recomputation_are_left_out(model, calls):
    x = torch.randn(2, 3, requires_grad=True)
    with torch.no_grad():
        model(x)
    assert not calls.entered
    checkpoint(model, x, use_reentrant=False).sum().backward()
    assert len(calls.entered) == 1


def test_a_copy_of_the_model_has_no_hook(model, calls):
    twin = copy.deepcopy(model)
    twin(torch.randn(2, 3))
    assert not twin._forward_hooks
    assert not calls.entered


def test_a_compiled_model_gives_its_arguments_and_is_traced_once(model, calls):
    traced = []

    def backend(graph, _example):
        traced.append(graph)
        return graph.forward

    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend)
    calls.hook._owns = lambda module: getattr(module, "_orig_mod", module) is model
    undo = quiet_about_global_hooks()
    for _ in range(3):
        compiled(torch.ones(2, 3))
    undo()
    torch._dynamo.reset()
    assert len(traced) == 1
    assert [module for module, _ in calls.entered] == [compiled] * 3
