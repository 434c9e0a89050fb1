"""The step to which a logged scalar belongs."""

import pytest
import torch
from torch import nn

import gradscope

STEPS = 70


def logged(log_at, *, budget=None, every=None, parts=(slice(None),)):
    """Train, log the number of the iteration at one place, and return the rows that were reported."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    optimizers = [
        torch.optim.SGD(model[0].parameters(), 0.1),
        torch.optim.SGD(model[2].parameters(), 0.1),
    ]
    rows = {}
    with gradscope.attach(
        model, hub=None, record=False, quiet=True, budget=budget, every=every
    ) as scope:
        put = scope._scalars._run.publisher.put_scalars

        def keep(step, time_s, values):
            if "loss" in values:
                rows[step] = values["loss"]
            put(step, time_s, values)

        scope._scalars._run.publisher.put_scalars = keep
        for iteration in range(STEPS):
            if log_at == "before the forward of the first iteration" and iteration == 0:
                scope.log(loss=iteration)
            loss = model(torch.randn(3, 4)).square().mean()
            if log_at == "before backward":
                scope.log(loss=iteration)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
            if log_at == "after the optimizers":
                scope.log(loss=iteration)
            if log_at == "after an evaluation":
                with torch.no_grad():
                    model(torch.randn(3, 4))
                scope.log(loss=iteration)
        assert scope.faults == {}
    return rows


@pytest.mark.parametrize("options", [{"every": 1}, {"every": 7}, {"budget": 0.02}], ids=str)
@pytest.mark.parametrize("log_at", ["before backward", "after the optimizers", "after an evaluation"])
@pytest.mark.parametrize("parts", [(slice(None),), (slice(2), slice(2, 4))], ids=["one", "two"])
def test_a_scalar_belongs_to_the_iteration_that_logs_it(log_at, options, parts):
    assert logged(log_at, parts=parts, **options) == {step: float(step) for step in range(STEPS)}


def test_a_scalar_before_the_first_forward_belongs_to_the_first_step():
    assert logged("before the forward of the first iteration", every=1) == {0: 0.0}
