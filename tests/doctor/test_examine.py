"""What `examine` promises beside its diagnoses: the report, and that nothing is changed."""

import copy
import json
import time

import pytest
import torch
from torch import nn
from torch.autograd import Function

from gradscope import functional
from gradscope.doctor import CODES, SEVERITIES, Report, examine, time_function
from gradscope.errors import UsageError


class Cube(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return 3 * x**2 * dy


class Detached(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2 + x

    @staticmethod
    def backward(ctx, dy):
        (x,) = ctx.saved_tensors
        return (2 * x.detach() + 1) * dy


class Product(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return torch.sin(a) * b

    @staticmethod
    def backward(ctx, dy):
        a, b = ctx.saved_tensors
        return (torch.cos(a) * b * dy if ctx.needs_input_grad[0] else None), None


def sample(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_the_five_steps_are_passed_with_their_numbers():
    report = examine(Cube, sample(3, 4))
    assert [step.number for step in report.steps] == [1, 2, 3, 4, 5]
    assert [step.status for step in report.steps] == ["passed"] * 5
    assert report.steps[2].numbers["largest of x"] > 0
    assert report.steps[3].numbers["step"] == 1e-6
    assert report.steps[4].numbers["gradcheck"] == "passed"
    assert report.steps[4].numbers["gradgradcheck"] == "passed"
    assert report.steps[4].numbers["gradcheck_time_s"] < 5


def test_a_failed_forward_skips_the_numerical_steps_with_the_reason():
    def raises(x):
        return x + torch.ones(7)

    report = examine(raises, sample(3, 4))
    assert [step.status for step in report.steps] == [
        "failed",
        "passed",
        "skipped",
        "skipped",
        "skipped",
    ]
    assert report.steps[3].note == "forward raises"
    assert "test_examine.py" in report.findings[0].where


def test_small_jacobians_and_hessians_are_shown():
    report = examine(Cube, torch.tensor([1.0, 2.0]))
    numbers = report.steps[4].numbers
    torch.testing.assert_close(
        torch.tensor(numbers["Jacobian, numerical"]), torch.tensor([[3.0, 0], [0, 12]])
    )
    torch.testing.assert_close(
        torch.tensor(numbers["Hessian of the sum, by backward"]), torch.tensor([[6.0, 0], [0, 12]])
    )


def test_a_report_goes_through_json_unchanged():
    report = examine(Detached, sample(3, 4))
    data = json.loads(json.dumps(report.to_dict()))
    assert data["version"] == 1
    assert data["ok"] is False
    back = Report.from_dict(data)
    assert back.to_dict() == report.to_dict()
    assert str(back) == str(report)


def test_the_text_names_cause_fix_line_and_checklist():
    text = str(examine(Detached, sample(3, 4)))
    for words in (
        "graph-broken",
        "cause:",
        "fix:",
        "test_examine.py:",
        "x.detach()",
        "[!] the second derivative",
    ):
        assert words in text
    assert max(len(line) for line in text.splitlines()) <= 110


def test_a_cut_graph_is_a_warning_where_no_second_derivative_is_asked_for():
    assert not examine(Detached, sample(3)).ok
    report = examine(Detached, sample(3), second_order=False)
    assert (report.ok, report.codes) == (True, ("graph-broken",))
    assert report.findings[0].severity == "warning"


def test_inputs_switched_off_by_the_caller_stay_off():
    a, b = sample(3, 4), sample(3, 4)
    assert examine(Product, a, b).codes[0] == "missing-gradient"
    assert examine(Product, a.clone().requires_grad_(), b).ok


def test_nothing_of_the_callers_is_changed():
    class WritesEverything(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            x.add_(torch.rand_like(x))
            return x * 2

        @staticmethod
        def backward(ctx, dy):
            dy.mul_(2)
            return dy

    x = sample(3, 4).requires_grad_()
    before, methods = x.detach().clone(), dict(vars(WritesEverything))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    examine(WritesEverything, x)
    examine(Cube, x)
    assert torch.equal(x.detach(), before)
    assert x.grad is None
    assert x._version == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert dict(vars(WritesEverything)) == methods


def test_a_module_is_left_as_it_was_and_its_parameters_are_examined():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(4, 3), nn.BatchNorm1d(3)

        def forward(self, x):
            return Detached.apply(self.norm(self.linear(x)))

    model = Model()
    state = copy.deepcopy(model.state_dict())
    report = examine(model, sample(5, 4), second_order=False)
    assert any("linear.weight" in name for name in report.steps[3].numbers)
    assert report.codes == ("graph-broken",)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_the_functions_inside_a_callable_are_watched():
    class Keeps(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.x = x
            return x**2 + x

        @staticmethod
        def backward(ctx, dy):
            return (2 * ctx.x + 1) * dy

    def around(x):
        return Keeps.apply(x * 2).sum(1)

    report = examine(around, sample(3, 4))
    assert report.codes == ("saved-on-ctx",)
    assert report.name == "around"
    assert "48 bytes" in report.findings[0].message


def test_an_examination_of_32_by_128_takes_less_than_two_seconds():
    examine(Cube, sample(2, 2))  # torch loads parts of itself at first use
    start = time.perf_counter()
    examine(Cube, sample(32, 128))
    assert time.perf_counter() - start < 2.0


class Normalised(Function):
    @staticmethod
    def forward(ctx, x):
        return 3 * x + 1

    @staticmethod
    def backward(ctx, dy):
        return 3 * dy / (3 * dy).norm()


DESIGNED = {
    "normalised": Normalised,
    "reverse": functional.reverse_gradient,
    "scale": lambda x: functional.scale_gradient(x, 0.5),
    "clip": lambda x: functional.clip_gradient_norm(x, 0.1),
    "clamp": lambda x: functional.clamp_gradient(x, 0.1),
    "stop": functional.stop_gradient,
    "straight through": lambda x: functional.straight_through(x, torch.round),
    "clipped linear": lambda x: functional.clip_gradient_norm(x @ torch.eye(4).to(x) * 2, 0.1) * 3,
}


@pytest.mark.parametrize("name", DESIGNED)
def test_a_gradient_that_is_meant_is_a_hint(name):
    report = examine(DESIGNED[name], sample(3, 4))
    assert report.ok, str(report)
    assert report.codes[:1] == ("gradient-by-design",), str(report)


def test_a_bad_approximation_is_measured_and_a_good_one_passes():
    class Differences(Function):
        @staticmethod
        def forward(ctx, x, step):
            ctx.save_for_backward(x)
            ctx.step = step
            return torch.sin(x)

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return dy * (torch.sin(x + ctx.step) - torch.sin(x - ctx.step)) / (2 * ctx.step), None

    x = sample(3, 4).double()
    assert examine(Differences, x, 1e-3, approximate=True).codes == ()
    assert examine(Differences, x, 0.15, approximate=True).codes == ("approximate-noticeable",)
    poor = examine(Differences, x, 0.5, approximate=True)
    assert poor.codes == ("approximate-poor",)
    # sin(x + h) - sin(x - h) = 2 sin(h) cos(x): the relative error is 1 - sin(h) / h
    assert "off by 4.1e-02" in poor.findings[0].message


def test_a_monte_carlo_gradient_is_graded_and_not_called_random():
    class Sampled(Function):
        @staticmethod
        def forward(ctx, x, spread):
            ctx.save_for_backward(x)
            ctx.spread = spread
            return torch.sin(x)

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return dy * torch.cos(x) * (1 + ctx.spread * torch.randn_like(x)), None

    assert examine(Sampled, sample(30, 4), 1e-4, approximate=True).codes == ()
    assert examine(Sampled, sample(30, 4), 0.005, approximate=True).codes == ("approximate-noticeable",)
    assert examine(Sampled, sample(30, 4), 0.1, approximate=True).codes == ("approximate-poor",)
    assert examine(Sampled, sample(30, 4), 0.1).codes[0] == "nondeterministic"


def test_a_consequence_is_the_evidence_of_its_cause():
    class Writes(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            x += 1
            return 2 * x * dy

    report = examine(Writes, sample(3, 4))
    assert report.codes == ("saved-tensor-modified",)
    assert any(line.startswith("wrong-gradient") for line in report.findings[0].evidence)


def test_precision_inside_is_said_and_allowed_for():
    class Single(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return torch.sin(x.float()).to(x.dtype)

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return torch.cos(x.float()).to(dy.dtype) * dy

    report = examine(Single, sample(3, 4).double())
    assert report.ok, str(report)
    assert any("torch.float32 inside" in note for note in report.notes)

    class WrongSingle(Single):
        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return 1.2 * torch.cos(x.float()).to(dy.dtype) * dy

    assert examine(WrongSingle, sample(3, 4)).codes[0] == "wrong-gradient-scale"


def test_the_checklist_ticks_crosses_and_leaves_out():
    states = {item.text: item.is_met for item in examine(Product, sample(3, 4), sample(3, 4)).checklist}
    assert states["the second derivative was looked at"] is None
    assert states["needs_input_grad is looked at"] is True
    assert states["the gradient is the derivative"] is False
    assert states["an approximate gradient was measured"] is None
    single = {item.text: item.is_met for item in examine(Cube, sample(3)).checklist}
    assert single["needs_input_grad is looked at"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            (3, sample(2)),
            "expected an autograd Function, its apply, an nn.Module or a callable, got int",
        ),
        ((nn.Linear, sample(2)), "got Linear"),
        ((Cube,), "expected at least one floating-point or complex tensor among its inputs, got none"),
        ((Cube, torch.ones(3, dtype=torch.int64), "a"), "got Tensor, str"),
    ],
)
def test_what_cannot_be_examined_is_refused(arguments, words):
    with pytest.raises(UsageError, match=words):
        examine(*arguments)


def test_codes_have_known_severities_and_explain_known_codes():
    for code in CODES.values():
        assert code.severity in SEVERITIES
        assert code.explains <= set(CODES)
        assert code.name not in code.explains


def test_timing_compares_with_a_reference():
    timing = time_function(Cube, lambda x: x**3, sample(64, 64).requires_grad_(), repeats=5)
    assert timing.repeats == 5
    assert (
        min(
            timing.forward_s, timing.backward_s, timing.reference_forward_s, timing.reference_backward_s
        )
        > 0
    )
    assert "times as long" in str(timing)
    with pytest.raises(UsageError, match="repeats of at least 1, got 0"):
        time_function(Cube, torch.sin, sample(2), repeats=0)
