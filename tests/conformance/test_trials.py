"""The trials themselves: a case in which watching did change something does not pass."""

import warnings

import numpy as np
import pytest
import torch
from cases.models import mlp, rows
from torch.nn.modules.module import register_module_forward_hook
from trials import Mode, Trial, judge
from trials.case import train

pytestmark = pytest.mark.slow


def with_mischief(mischief):
    """Return a case that is harmless, but for what it does in the attached run only."""

    def run(t: Trial) -> None:
        model = t.watch(mlp())
        train(t, model, [rows(), rows()])
        if t.mode is Mode.ATTACHED:
            mischief(t, model)

    return run


def one_bit(t, model):
    with torch.no_grad():
        model[0].bias[0] = torch.nextafter(model[0].bias[0], torch.tensor(9.0))


def the_sign_of_a_zero(t, model):
    t.kept[-1] = (t.kept[-1][0], -t.kept[-1][1])


def a_hook_on_a_module(t, model):
    model[2].register_forward_hook(lambda *_: None)


def a_hook_on_a_parameter(t, model):
    model[0].weight.register_hook(lambda g: g)


def another_class(t, model):
    model[1].__class__ = type("Tanh2", (torch.nn.Tanh,), {})


def an_exception(t, model):
    t.attempt(lambda: 1 // 0)


MISCHIEF = (
    ("different", one_bit),
    ("different", the_sign_of_a_zero),
    ("different", lambda t, model: model[0].weight.grad.mul_(1 + 1e-7)),
    ("different", lambda t, model: torch.rand(1)),
    ("different", lambda t, model: np.random.rand()),  # noqa: NPY002 - the global one is meant
    ("raised", an_exception),
    ("raised", lambda t, model: warnings.warn("mine", stacklevel=2)),
    ("left", a_hook_on_a_module),
    ("left", a_hook_on_a_parameter),
    ("left", another_class),
    ("left", lambda t, model: setattr(model[0], "_mine", 1)),
    ("wrong", lambda t, model: t.tables.pop()),
    ("wrong", lambda t, model: t.tables.reverse()),
)


@pytest.mark.parametrize(("part", "mischief"), MISCHIEF)
def test_harmful_observers_are_detected(part, mischief):
    assert getattr(judge(with_mischief(mischief)), part)


def test_harmless_observers_are_accepted():
    outcome = judge(with_mischief(lambda t, model: None))
    assert outcome.problems == []
    assert outcome.statistics > 0


def test_a_hook_left_in_torch_is_found():
    handles = []

    def leave(t, model):
        handles.append(register_module_forward_hook(lambda *_: None))

    try:
        assert any("_global_forward_hooks" in text for text in judge(with_mischief(leave)).left)
    finally:
        handles[0].remove()
