"""Layer, pass, operation and line of 42 seeded faults, each in one step of many, and in every step."""

import contextlib

import pytest
import torch

import gradscope
from agent.flight_recorder.cases import CASES, set_sick

pytestmark = pytest.mark.slow

_SICK = 41
"""Under this budget gradients are checked in every 32nd step, and this one is not among them."""


def train(case, *, sick_in, steps):
    """Train, and return the finding `nonfinite`."""
    torch.manual_seed(0)
    model = case.make()
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    with gradscope.attach(model, hub=None, record=False, quiet=True, budget=1e-6) as scope:
        for step in range(steps):
            set_sick(model, step in sick_in)
            optimizer.zero_grad()
            for _ in range(2 if "accumulate" in case.options else 1):
                is_low = "autocast" in case.options
                with torch.autocast("cpu", torch.bfloat16) if is_low else contextlib.nullcontext():
                    loss = case.loss_of(model(case.inputs(model)), model)
                loss.backward()
            if "clip" in case.options:
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        found = [each for each in scope.findings if each.code == "nonfinite"]
        assert scope.faults == {}
    (finding,) = found
    return finding


@pytest.mark.filterwarnings("ignore:std")
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("is_lasting", [False, True], ids=["once", "lasting"])
def test_pass_layer_operation_and_line(name, is_lasting):
    case = CASES[name]
    finding = train(
        case, sick_in=range(4) if is_lasting else {_SICK}, steps=4 if is_lasting else _SICK + 4
    )
    assert finding.found_step == (0 if is_lasting else _SICK)
    assert finding.place == case.place, finding.message
    assert finding.layers == case.layers, finding.message
    assert case.operation in str(finding.evidence.get("operation", "")), finding.message
    if case.place != "input":
        assert str(finding.evidence.get("source", "")).endswith(("# fault", "# fmt: skip")), (
            finding.message
        )
