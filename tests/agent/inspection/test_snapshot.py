"""The snapshot: the state of before the first intervention, and a run that then equals a control."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn

import gradscope
from gradscope.errors import UsageError

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True, capturable=False),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.01),
    "lbfgs": lambda p: torch.optim.LBFGS(p, lr=0.1, max_iter=2),
}


def make_model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2)
    )


def step(model, optimizer):
    """One step on data that torch's, NumPy's and Python's own generators choose."""
    x = torch.randn(7, 4) + float(np.random.rand()) + random.random()  # noqa: NPY002 - the global one is meant

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    return optimizer.step(closure).detach()


def seed():
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - as above
    random.seed(1)


def state(model, optimizer):
    return copy.deepcopy((model.state_dict(), optimizer.state_dict())), torch.get_rng_state()


def is_same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(is_same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(is_same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_undo_restores_the_snapshot_and_training_continues_like_a_control_run(name):
    seed()
    control = make_model()
    control_optimizer = OPTIMIZERS[name](control.parameters())
    seed()
    for _ in range(4):
        step(control, control_optimizer)
    expected_state = state(control, control_optimizer)
    expected = [step(control, control_optimizer) for _ in range(5)]

    model = make_model()
    optimizer = OPTIMIZERS[name](model.parameters())
    with gradscope.attach(model, optimizer, every=2, hub=None, quiet=True) as scope:
        scope.keep_snapshot()
        seed()
        for _ in range(4):
            step(model, optimizer)
        scope.reverse("4", alpha=3.0)
        bad = [step(model, optimizer) for _ in range(3)]
        scope.restore_snapshot()
        assert scope.interventions == ()
        assert is_same(state(model, optimizer), expected_state)
        again = [step(model, optimizer) for _ in range(5)]
        assert is_same(again, expected)
        assert not is_same(bad, expected[:3])
        assert scope.faults == {}


def test_a_users_own_snapshot_functions_are_called_before_the_intervention_and_at_undo():
    model = make_model()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    called = []
    with gradscope.attach(model, optimizer, every=2, hub=None, quiet=True) as scope:
        scope.keep_snapshot(
            save=lambda step: called.append(("save", step, len(scope.interventions))),
            restore=lambda: called.append(("restore", scope.step)),
        )
        step(model, optimizer)
        scope.stop("0")
        step(model, optimizer)
        scope.scale("0", factor=0.5)  # no first one: nothing is saved again
        step(model, optimizer)
        scope.restore_snapshot()
        step(model, optimizer)
    assert called == [("save", 1, 1), ("restore", 3)]


def test_undo_without_a_snapshot_or_intervention_is_rejected():
    model = make_model()
    with gradscope.attach(model, every=2, hub=None, quiet=True) as scope:
        with pytest.raises(
            UsageError, match=r"there is no snapshot to restore: call scope.keep_snapshot\(\)"
        ):
            scope.restore_snapshot()
        scope.keep_snapshot()
        with pytest.raises(UsageError, match="nothing to undo"):
            scope.restore_snapshot()
        with pytest.raises(UsageError, match="expected both"):
            scope.keep_snapshot(save=print)
        with pytest.raises(UsageError, match="got int"):
            scope.keep_snapshot(3)
