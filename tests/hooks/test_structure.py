"""Whether a model is still what it was: told alike in Python and in C."""

import gc
import weakref

import pytest
import torch
from torch import nn

from gradscope.hooks import OwnedIds, Structure, owned_ids
from gradscope.observe import native_module


@pytest.fixture(params=["python", "native"])
def ids(request) -> OwnedIds:
    if request.param == "python":
        return owned_ids
    native = native_module()
    if native is None:
        pytest.skip("the native pass was not built")
    return native.owned_ids


def model() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 3, bias=False)), nn.Sequential()
    )


def replace_a_child(net):
    net[1][0] = nn.GELU()


def add_a_child(net):
    net.append(nn.Tanh())


def move_a_child_to_its_neighbour(net):
    moved = net[1].pop(1)
    net[2].append(moved)


def change_a_class(net):
    net[0].__class__ = type("Other", (nn.Linear,), {})


@pytest.mark.parametrize(
    "change", [replace_a_child, add_a_child, move_a_child_to_its_neighbour, change_a_class]
)
def test_a_change_of_modules_is_seen_and_is_none_of_parameters(ids, change):
    net = model()
    structure = Structure(net, ids)
    assert structure.has_modules_of(net)
    kept = list(net.modules())
    change(net)
    assert not structure.has_modules_of(net)
    assert structure.has_same_parameters()
    assert Structure(net, ids).has_modules_of(net)
    del kept


def test_a_change_of_parameters_is_seen_and_is_none_of_modules(ids):
    net = model()
    structure = Structure(net, ids)
    assert structure.has_same_parameters()
    kept = net[0].bias
    net[0].bias = None
    assert not structure.has_same_parameters()
    assert structure.has_modules_of(net)
    net[0].bias = kept
    assert structure.has_same_parameters()
    net[0].bias = nn.Parameter(torch.zeros(2))
    assert not structure.has_same_parameters()


def test_another_model_and_one_that_is_gone_are_not_the_same(ids):
    net, other = model(), model()
    structure = Structure(net, ids)
    assert not structure.has_modules_of(other)
    del net
    gc.collect()
    assert not structure.has_modules_of(other)
    assert structure.has_same_parameters()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_changes_next_to_a_scripted_module_are_seen(ids):
    net = nn.Sequential(nn.Linear(2, 2), torch.jit.script(nn.Sequential(nn.Linear(2, 2))))
    structure = Structure(net, ids)
    for _ in range(3):
        assert structure.has_modules_of(net)
        assert structure.has_same_parameters()
    kept = net[0]
    kept.bias = None
    assert not structure.has_same_parameters()
    net[0] = nn.Linear(2, 2)
    assert not structure.has_modules_of(net)


def test_python_and_c_give_the_same_bytes():
    native = native_module()
    if native is None:
        pytest.skip("the native pass was not built")
    net = model()
    references = [weakref.ref(module) for module in net.modules()]
    for name in ("_modules", "_parameters", "_buffers"):
        assert native.owned_ids(references, name) == owned_ids(references, name) != b""
    del net
    gc.collect()
    assert native.owned_ids(references, "_modules") == owned_ids(references, "_modules") == b""
    assert native.owned_ids([], "_modules") == b""
    with pytest.raises(TypeError, match="weak references"):
        native.owned_ids((), "_modules")
