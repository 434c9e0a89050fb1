"""The modules against the functions that they call."""

import copy
import math

import pytest
import torch
from torch import nn

import gradscope.nn as gnn
from gradscope import functional
from gradscope.errors import UsageError

CASES = [
    (
        gnn.GradientReversal(0.5),
        lambda x: functional.reverse_gradient(x, 0.5),
        "GradientReversal(alpha=0.5)",
    ),
    (gnn.GradientScale(-2.0), lambda x: functional.scale_gradient(x, -2.0), "GradientScale(factor=-2)"),
    (
        gnn.GradientClip(0.1),
        lambda x: functional.clip_gradient_norm(x, 0.1),
        "GradientClip(max_norm=0.1)",
    ),
    (gnn.GradientClamp(0.1), lambda x: functional.clamp_gradient(x, 0.1), "GradientClamp(limit=0.1)"),
    (gnn.StopGradient(), functional.stop_gradient, "StopGradient()"),
    (
        gnn.GradientNoise(0.1, seed=4),
        lambda x: functional.noise_gradient(x, 0.1, torch.Generator().manual_seed(4)),
        "GradientNoise(std=0.1, seed=4)",
    ),
    (
        gnn.GradientNoise(0.5, is_relative=True),
        lambda x: functional.noise_gradient(x, 0.5, torch.Generator().manual_seed(0), is_relative=True),
        "GradientNoise(std=0.5, seed=0, is_relative=True)",
    ),
    (
        gnn.GradientReplaceNonfinite(2.0),
        lambda x: functional.replace_nonfinite_gradient(x, 2.0),
        "GradientReplaceNonfinite(value=2)",
    ),
    (
        gnn.GradientChange(torch.sign),
        lambda x: functional.change_gradient(x, torch.sign),
        "GradientChange(sign)",
    ),
    (
        gnn.StraightThrough(torch.sign),
        lambda x: functional.straight_through(x, torch.sign),
        "StraightThrough(sign)",
    ),
]
IDS = [text for _, _, text in CASES]


@pytest.mark.parametrize(("module", "function", "text"), CASES, ids=IDS)
def test_a_module_gives_the_value_and_the_gradient_of_its_function(module, function, text):
    results = []
    for run in (copy.deepcopy(module), function):
        x = torch.linspace(-2, 2, 12).view(3, 4).requires_grad_()
        y = run(x)
        y.square().sum().backward()
        results.append((y.detach(), x.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


@pytest.mark.parametrize(("module", "function", "text"), CASES, ids=IDS)
def test_a_module_shows_its_numbers_and_adds_nothing_to_a_state_dict(module, function, text):
    assert repr(module) == text
    assert list(nn.Sequential(nn.Linear(2, 2), module).state_dict()) == ["0.weight", "0.bias"]


def test_a_number_that_was_changed_is_in_force_at_the_next_call():
    module = gnn.GradientReversal(1.0)
    module.alpha = 0.25
    x = torch.ones(2, requires_grad=True)
    module(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-0.25, -0.25]
    module.alpha = -1.0
    with pytest.raises(UsageError, match=r"reverse_gradient expected alpha"):
        module(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: gnn.GradientReversal(-1.0),
        lambda: gnn.GradientScale(math.inf),
        lambda: gnn.GradientClip(math.nan),
        lambda: gnn.GradientClamp(-0.5),
        lambda: gnn.GradientNoise(math.nan),
        lambda: gnn.GradientReplaceNonfinite(math.inf),
    ],
)
def test_a_bad_number_is_refused_when_the_module_is_made(make):
    with pytest.raises(UsageError, match=r"expected .* to be a real number"):
        make()


def test_noise_continues_from_call_to_call_and_a_copy_continues_from_the_same_state():
    def draw(module: nn.Module) -> torch.Tensor:
        x = torch.zeros(5, requires_grad=True)
        module(x).sum().backward()
        assert x.grad is not None
        return x.grad - 1

    module = gnn.GradientNoise(1.0)
    first = draw(module)
    twin = copy.deepcopy(module)
    second = draw(module)
    assert not torch.equal(first, second)
    assert torch.equal(draw(twin), second)


def test_every_function_has_a_module():
    assert len(gnn.__all__) == len(functional.__all__) == 9
