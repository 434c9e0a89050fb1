"""Each entry of the catalogue is complete, and the typed methods have the parameters of their entries."""

import inspect
import string

import pytest

from gradscope.agent.scope import Scope
from gradscope.catalogue import COMMON, INTERVENTIONS, SCOPE_METHODS
from gradscope.client import Client
from gradscope.intervene import ACTIONS


def fields(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


@pytest.mark.parametrize("spec", INTERVENTIONS.values(), ids=lambda spec: spec.name)
def test_an_entry_has_words_for_each_place_and_they_name_its_arguments_only(spec):
    assert all((spec.help, spec.key, spec.verb, spec.menu, spec.effect, spec.short))
    arguments = {argument.name for argument in spec.arguments}
    for template in (spec.effect, spec.short, spec.module, spec.on_parameters):
        assert fields(template) <= arguments


def test_keys_are_unique_and_digits_are_left_for_a_scripts_own():
    keys = [spec.key for spec in INTERVENTIONS.values()]
    assert len(set(keys)) == len(keys)
    assert not set(keys) & set(string.digits)


def test_each_entry_has_a_function_of_tensors_and_each_function_an_entry():
    from gradscope.intervene import actions

    assert set(actions._TRANSFORMS) == set(ACTIONS) == set(INTERVENTIONS)
    assert set(actions._JOINT_TRANSFORMS) <= set(INTERVENTIONS)


def defaults(method) -> dict[str, object]:
    parameters = inspect.signature(method).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("owner", "name"),
    [*((Scope, name) for name in SCOPE_METHODS), *((Client, name) for name in COMMON)],
)
def test_a_typed_method_has_the_parameters_and_defaults_of_its_entry(owner, name):
    expected = {
        argument.name: inspect.Parameter.empty if argument.default is None else argument.default
        for argument in INTERVENTIONS[name].arguments
    }
    assert defaults(getattr(owner, name)) == expected


def test_scope_has_no_method_for_an_intervention_that_is_not_listed():
    assert {name for name in INTERVENTIONS if hasattr(Scope, name)} == set(SCOPE_METHODS)
