"""A loss scaler that skips: a hint with the parameter, a warning if it lasts, and NaN in the output is nonfinite."""

import pytest
import torch
from torch import nn

import gradscope


class Factor(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.factor, None


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 4)
        self.factor = 1.0

    def forward(self, x):
        return self.head(Factor.apply(torch.tanh(self.first(x)), self.factor))


def train(optimizer_class, steps, model=None, inputs=None, *, scale=2.0**16, **options):
    torch.manual_seed(0)
    model = model or Model()
    optimizer = optimizer_class(model.parameters(), 1e-3, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    before = torch.amp.GradScaler.step
    with gradscope.attach(model, hub=None, record=False, quiet=True) as scope:
        for step in range(steps):
            if hasattr(model, "factor"):
                model.factor = 1e38 if step != 1 else 1.0
            optimizer.zero_grad()
            x = torch.randn(8, 6) if inputs is None else inputs(step)
            scaler.scale(model(x).square().mean()).backward()
            scaler.step(optimizer)
            scaler.update()
        assert scope.faults == {}
        found = [each for each in scope.findings if each.code in ("scaler-skip", "nonfinite")]
    assert torch.amp.GradScaler.step is before
    return found


@pytest.mark.parametrize(
    ("kind", "options"), [(torch.optim.SGD, {}), (torch.optim.AdamW, {"fused": True})]
)
def test_a_skip_is_a_hint_with_the_parameter_that_overflows_first(kind, options):
    (finding,) = train(kind, 2, **options)
    assert (finding.code, finding.severity, finding.layers) == ("scaler-skip", "hint", ("first",))
    assert finding.evidence["parameter"] == "first.bias"


def test_skips_that_last_are_a_warning_with_the_operation():
    (finding,) = train(torch.optim.SGD, 14)
    assert finding.severity == "warning"
    assert finding.evidence["skipped_in_row"] == 10
    assert "FactorBackward" in finding.message


def test_a_scaler_that_skips_down_from_a_large_initial_scale_is_a_hint():
    model = nn.Linear(6, 4)
    model.register_forward_hook(lambda _module, _args, output: Factor.apply(output, 1e30))
    (finding,) = train(lambda p, _: torch.optim.SGD(p, 1e-33), 30, model, scale=2.0**40)
    assert finding.evidence["steps"] == 1
    assert (finding.code, finding.severity) == ("scaler-skip", "hint")


def test_a_nan_in_the_output_is_nonfinite_with_a_scaler():
    model = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 4))
    found = train(
        torch.optim.SGD, 5, model, lambda step: torch.full((8, 6), torch.nan if step == 3 else 1.0)
    )
    assert [each.code for each in found] == ["nonfinite"]
    assert found[0].place == "input"
