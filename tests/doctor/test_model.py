"""The Functions that a model uses, examined with what it calls them with; nothing else changes."""

import copy
import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

import gradscope
from gradscope.doctor import examine_model
from gradscope.errors import UsageError


class Scaled(Function):
    """Multiplies by a number."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x * factor

    @staticmethod
    def backward(ctx, dy):
        return dy * ctx.factor, None


class Log(Function):
    """Right only where it is defined: on positive numbers."""

    @staticmethod
    def forward(x):
        assert (x > 0).all(), "log of a number that is not positive"
        return x.log()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return -dy / x  # the wrong sign


class Unused(Scaled):
    """In the file, and not in the model."""


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2 = nn.Linear(4, 6), nn.Linear(6, 2)
        self.norm, self.drop = nn.BatchNorm1d(6), nn.Dropout(0.5)
        self.calls = 0

    def forward(self, x, *, factor=0.5):
        self.calls += 1
        noise = random.random() + np.random.rand()  # noqa: NPY002
        hidden = self.drop(self.norm(self.fc1(x))) + noise
        hidden = Scaled.apply(hidden, factor)
        hidden = Log.apply(hidden.abs() + 1)
        hidden = hidden.add_(1)
        return {"out": Scaled.apply(self.fc2(hidden), factor)}


def state_of(model):
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    return (
        [v.clone() for v in model.state_dict().values()], gradients, model.calls,
        torch.get_rng_state(), random.getstate(), np.random.get_state(),  # noqa: NPY002
    )  # fmt: skip


def test_each_function_is_examined_with_the_arguments_of_its_calls():
    reports = examine_model(Model(), (torch.randn(3, 4),), {"factor": 2.0})
    assert [r.name for r in reports] == [
        "Scaled on float32[3, 6], 2.0", "Scaled on float32[3, 2], 2.0", "Log",
    ]  # fmt: skip
    assert [r.ok for r in reports] == [True, True, False]
    assert reports[2].codes[0] == "wrong-gradient-sign"
    assert "called 1 times in one forward of Model, with float32[3, 6]" in reports[2].notes
    assert "called 1 times in one forward of Model" in str(reports[2])
    assert reports[0].steps[0].numbers["inputs"] == ["x float32[3, 6]"]


def test_arguments_are_kept_as_they_were_met_and_not_as_they_were_written_to_later():
    class Overwriting(nn.Module):
        def forward(self, x):
            positive = x.abs() + 1
            logarithm = Log.apply(positive)
            with torch.no_grad():
                positive.mul_(-1)
            return logarithm

    (report,) = examine_model(Overwriting(), (torch.randn(3, requires_grad=True),))
    assert report.codes[0] == "wrong-gradient-sign", report


def test_of_many_kinds_of_arguments_four_are_examined_and_the_rest_is_counted():
    class Growing(nn.Module):
        def forward(self, x):
            return torch.stack([Scaled.apply(x[:count], 2.0).sum() for count in range(1, 7)])

    reports = examine_model(Growing(), (torch.randn(6, requires_grad=True),))
    assert [report.steps[0].numbers["inputs"] for report in reports] == [
        [f"x float32[{count}]"] for count in range(1, 5)
    ]
    assert all("not examined: calls with 2 more kinds of arguments" in r.notes for r in reports)


def test_the_model_its_gradients_and_all_random_states_stay_as_they_are():
    model, x = Model(), torch.randn(3, 4)
    model(x)["out"].sum().backward()
    methods = [dict(vars(f)) for f in (Scaled, Log)]
    before, x_before = copy.deepcopy(state_of(model)), x.clone()
    examine_model(model, (x,))
    after = state_of(model)
    assert torch.equal(x, x_before)
    assert x.grad is None
    for was, now in zip(before[:2], after[:2], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(was, now, strict=True))
    assert torch.equal(before[3], after[3])
    assert (before[2], before[4]) == (after[2], after[4])
    np.testing.assert_equal(before[5], after[5])
    assert [dict(vars(f)) for f in (Scaled, Log)] == methods


def test_a_function_whose_forward_is_inherited_is_given_back_as_it_was():
    class Inheriting(nn.Module):
        def forward(self, x):
            return Unused.apply(x, 3.0)

    (report,) = examine_model(Inheriting(), (torch.randn(3, requires_grad=True),))
    assert (report.name, report.ok) == ("Unused", True)
    assert "forward" not in vars(Unused)


def test_a_model_without_functions_gives_no_report_and_torchs_own_are_left_out():
    class Checkpointed(nn.Module):
        def forward(self, x):
            return checkpoint(torch.sin, x, use_reentrant=True)

    assert examine_model(nn.Linear(4, 2), (torch.randn(3, 4),)) == []
    assert examine_model(Checkpointed(), (torch.randn(3, requires_grad=True),)) == []


def test_a_call_whose_tensors_need_no_gradient_is_not_examined_and_says_so():
    class Half(nn.Module):
        def forward(self, x):
            return Scaled.apply(x, 2.0) + Scaled.apply(x.detach()[:1], 2.0)

    reports = examine_model(Half(), (torch.randn(3, requires_grad=True),))
    assert [len(report.steps) for report in reports] == [5, 0]
    assert reports[1].notes[-1].startswith("not examined: no tensor among the arguments")


def test_what_cannot_be_run_or_copied_is_said_in_words():
    with pytest.raises(
        UsageError, match=r"Model cannot run on float32\[3, 5\]: RuntimeError: .*; pass "
    ):
        examine_model(Model(), (torch.randn(3, 5),))
    model = Model()
    model.kept = iter(open.__name__ for _ in range(1))  # a generator cannot be copied
    with pytest.raises(UsageError, match="Model cannot be copied, and the doctor runs only a copy"):
        examine_model(model, (torch.randn(3, 4),))


_LAZY = nn.LazyLinear(4)


class _UsesALazyLayer(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2 if _LAZY is not None else x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2


def test_a_function_with_a_lazy_layer_among_its_globals_is_examined():
    report = gradscope.examine(_UsesALazyLayer, torch.randn(3, requires_grad=True))
    assert [finding.code for finding in report.findings] == []
