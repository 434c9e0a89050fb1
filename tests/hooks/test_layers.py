import pytest
import torch
from torch import nn

from gradscope.errors import UnknownLayerError
from gradscope.hooks import layers_of


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.same = self.fc


def test_containers_and_the_model_itself_are_listed_and_not_watched():
    model = nn.Sequential(Block(), nn.ModuleList([nn.ReLU()]))
    watched = {layer.name: layer.is_watched for layer in layers_of(model)}
    assert watched == {"": False, "0": True, "0.fc": True, "1": False, "1.0": True}


def test_a_lone_layer_is_watched_itself():
    assert [layer.is_watched for layer in layers_of(nn.Linear(2, 2))] == [True]


def test_a_model_without_modules_is_watched_as_a_whole():
    assert [(layer.name, layer.is_watched) for layer in layers_of(nn.Module())] == [("", True)]


def test_a_callable_chooses_by_name_and_module():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    layers = layers_of(model, lambda name, module: isinstance(module, nn.ReLU))
    assert [layer.name for layer in layers if layer.is_watched] == ["1"]
    with pytest.raises(UnknownLayerError, match="chose none"):
        layers_of(model, lambda name, module: False)


def test_a_model_with_a_list_of_parameters_is_watched_itself():
    model = nn.Module()
    model.add_module("weights", nn.ParameterList([torch.ones(2)]))
    assert [layer.name for layer in layers_of(model) if layer.is_watched] == ["", "weights"]
