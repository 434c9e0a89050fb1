from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch

from gradscope.hooks import find_tensors, replace_tensors


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


@dataclass
class Output:
    logits: torch.Tensor
    loss: torch.Tensor | None = None


class ModelOutput(OrderedDict):
    """As libraries make them: a mapping whose keys are attributes too."""

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        self.__dict__[key] = value


A, B = torch.ones(2), torch.zeros(3, dtype=torch.float64)
INTEGER = torch.arange(2)

CASES = [
    (A, {"": A}),
    ((A, B), {"0": A, "1": B}),
    ([A, (B, None)], {"0": A, "1.0": B}),
    ({"x": A, "y": {"z": B}}, {"x": A, "y.z": B}),
    (Pair(A, B), {"0": A, "1": B}),
    (Output(A), {"logits": A}),
    (ModelOutput(a=A), {"a": A}),
    (INTEGER, {}),
    (("text", 3, None, INTEGER), {}),
    (None, {}),
]


@pytest.mark.parametrize(("value", "expected"), CASES, ids=lambda v: type(v).__name__)
def test_tensors_are_found_with_their_paths(value, expected):
    found = dict(find_tensors(value))
    assert list(found) == list(expected)
    assert all(found[path] is tensor for path, tensor in expected.items())


@pytest.mark.parametrize(("value", "expected"), CASES, ids=lambda v: type(v).__name__)
def test_a_replaced_structure_has_its_type_and_the_original_is_untouched(value, expected):
    before = dict(find_tensors(value))
    doubled = replace_tensors(value, lambda t: t * 2 + 1)
    assert type(doubled) is type(value)
    for path, tensor in find_tensors(doubled):
        assert torch.equal(tensor, expected[path] * 2 + 1)
    assert all(tensor is before[path] for path, tensor in find_tensors(value))


def test_the_very_object_comes_back_when_nothing_is_replaced():
    value = (A, {"x": [B]})
    assert replace_tensors(value, lambda t: t) is value


def test_attributes_of_a_model_output_follow_its_items():
    assert replace_tensors(ModelOutput(a=A), lambda t: t + 1).a[0] == 2
