"""A layer's own parameters are the ones that PyTorch itself names."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from gradscope.hooks import layers_of


class Twice(nn.Module):
    """Has one parameter under two names, and one name without any."""

    def __init__(self):
        super().__init__()
        self.first = self.second = nn.Parameter(torch.ones(2))
        self.register_parameter("none", None)


class Renaming(nn.Linear):
    """Names its parameters in a way of its own."""

    def named_parameters(self, prefix="", recurse=True, remove_duplicate=True):
        for name, parameter in super().named_parameters(prefix, recurse, remove_duplicate):
            yield f"own_{name}", parameter


@pytest.mark.parametrize(
    "model",
    [
        nn.Linear(2, 3),
        nn.Linear(2, 3, bias=False),
        nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.LSTM(3, 4)),
        nn.Sequential(Twice()),
        nn.Sequential(Renaming(2, 2)),
        nn.Sequential(parametrizations.orthogonal(nn.Linear(3, 3))),
        nn.ParameterList([torch.ones(2), torch.ones(3)]),
    ],
)
def test_they_are_named_parameters_without_recursion(model):
    for layer in layers_of(model):
        expected = dict(layer.module.named_parameters(recurse=False))
        assert list(layer.parameters) == list(expected)
        assert all(layer.parameters[name] is parameter for name, parameter in expected.items())


def test_they_are_no_window_into_the_module():
    model = nn.Linear(2, 3)
    layers_of(model)[0].parameters.clear()
    assert len(list(model.parameters())) == 2
