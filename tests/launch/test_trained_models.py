"""Which models are found by the optimizers of the process, and their names."""

import gc
import weakref

import pytest
from torch import nn
from torch.amp import GradScaler
from torch.optim import SGD

import gradscope
from gradscope.agent.attach import attach_automatically, is_attached
from gradscope.launch.run_names import RunNames
from gradscope.launch.trained_models import enabled_scaler, find_trained_models, variable_of


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(3, 4)
        self.head = nn.Linear(4, 2)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = Net(), Net()


@pytest.fixture(autouse=True)
def _no_optimizers_of_other_tests():
    gc.collect()


def test_the_whole_model_is_found_and_not_its_parts():
    model = Pair()
    optimizers = [SGD(model.one.parameters(), 0.1), SGD(model.other.parameters(), 0.1)]
    assert find_trained_models() == [model]
    del optimizers


def test_two_models_with_one_optimizer_are_two():
    encoder, decoder, _untrained = Net(), Net(), Net()
    optimizer = SGD([*encoder.parameters(), *decoder.parameters()], 0.1)
    assert set(find_trained_models()) == {encoder, decoder}
    del optimizer


def test_the_model_in_a_wrapper_is_found():
    model = Net()
    wrapper = nn.DataParallel(model)
    optimizer = SGD(wrapper.parameters(), 0.1)
    assert find_trained_models() == [model]
    del optimizer


def test_of_models_that_share_parameters_the_one_is_found_that_is_trained_as_a_whole():
    model = Net()
    features = nn.Sequential(model.trunk, nn.ReLU())
    optimizer = SGD(features.parameters(), 0.1)
    assert find_trained_models() == [features]
    optimizer = SGD(model.parameters(), 0.1)
    gc.collect()
    assert find_trained_models() == [model]
    del optimizer


def test_no_model_is_found_if_an_optimizer_holds_other_tensors():
    _model, delta = Net(), nn.Parameter(Net().head.weight.detach())
    optimizer = SGD([delta], 0.1)
    assert find_trained_models() == []
    del optimizer


def test_an_optimizer_whose_constructor_has_raised_is_left_out():
    model = Net()
    optimizer, failed = SGD(model.parameters(), 0.1), SGD.__new__(SGD)
    assert find_trained_models() == [model]
    del optimizer, failed


def test_the_only_scaler_that_is_enabled_is_found():
    first = GradScaler("cpu")
    _off = GradScaler("cpu", enabled=False)
    assert enabled_scaler() is first
    _second = GradScaler("cpu")
    assert enabled_scaler() is None


def test_the_variable_of_a_model_is_found_also_as_an_attribute():
    class Agent:
        def __init__(self) -> None:
            self.critic = Net()

        def find(self):
            return variable_of(self.critic)

    def search(something):
        return variable_of(something)

    actor = nn.DataParallel(Net())
    assert variable_of(actor.module) == "actor"
    assert Agent().find() == "critic"
    assert search(Net()) == "something"
    in_no_variable = variable_of([Net()][0])
    assert in_no_variable is None


def test_the_search_for_a_variable_keeps_no_variable_alive():
    model = Net()
    other = Net()
    gone = weakref.ref(other)
    variable_of(model)
    del other
    assert gone() is None


def test_runs_are_named_after_classes_and_after_variables_where_those_do_not_differ():
    names = RunNames(None)
    variables = {}.get
    one, two, three = Net(), Pair(), nn.Sequential()
    assert names.kinds_of([one, two, three], lambda m: "policy" if m is three else None) == [
        "Net",
        "Pair",
        "policy",
    ]
    assert names.kinds_of([Net()], lambda _: "student") == ["student"]
    assert names.kinds_of([Net()], variables) == ["Net"]
    first, second = names.next_name("Net", is_alone=True), names.next_name("Net", is_alone=True)
    assert second == f"{first}-2"


def test_a_given_name_is_that_of_the_only_model_and_else_the_beginning():
    names = RunNames("mine")
    assert names.next_name("Net", is_alone=True) == "mine"
    assert names.next_name("Net", is_alone=True) == "mine-Net"
    assert names.next_name("Net", is_alone=True) == "mine-Net-2"
    assert RunNames("gan").next_name("Generator", is_alone=False) == "gan-Generator"


def test_attach_in_the_script_replaces_an_automatic_scope_also_that_of_a_part():
    model = Net()
    automatic = attach_automatically(model, hub=None, quiet=True)
    assert is_attached(model)
    assert is_attached(model.head)
    assert not is_attached(Net())
    wrapper = nn.Sequential(model)
    with gradscope.attach(wrapper, hub=None, quiet=True) as own:
        assert automatic.is_detached
        assert is_attached(model)
        with pytest.raises(gradscope.errors.UsageError, match="attached already"):
            gradscope.attach(wrapper, hub=None, quiet=True)
        assert gradscope.scopes() == [own]
    assert not is_attached(model)
