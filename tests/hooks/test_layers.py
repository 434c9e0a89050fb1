import re

import pytest
from torch import nn

from gradscope.errors import UnknownLayerError, UsageError
from gradscope.hooks import layers_of, match_names

NAMES = [
    "",
    "embed",
    "blocks",
    "blocks.0",
    "blocks.0.fc1",
    "blocks.0.fc2",
    "blocks.1",
    "blocks.1.fc1",
    "head",
]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("head", ["head"]),
        ("blocks.*.fc1", ["blocks.0.fc1", "blocks.1.fc1"]),
        ("blocks.0*", ["blocks.0", "blocks.0.fc1", "blocks.0.fc2"]),
        ("*", [name for name in NAMES if name]),
        ("", [""]),
        ("re:fc[12]$", ["blocks.0.fc1", "blocks.0.fc2", "blocks.1.fc1"]),
        (re.compile("^e"), ["embed"]),
        (["head", "embed"], ["embed", "head"]),
    ],
)
def test_a_pattern_chooses_names_in_their_order(pattern, expected):
    assert match_names(pattern, NAMES) == expected


def test_an_unknown_layer_is_answered_with_the_nearest_names():
    with pytest.raises(UnknownLayerError, match=r"no layer matches 'blocks.0.fc3'.*blocks.0.fc2"):
        match_names(["head", "blocks.0.fc3"], NAMES)


@pytest.mark.parametrize("bad", [5, ["head", 3], "re:("])
def test_what_is_no_pattern_is_refused(bad):
    with pytest.raises(UsageError):
        match_names(bad, NAMES)


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
