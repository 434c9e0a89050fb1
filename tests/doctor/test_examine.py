"""The report of `examine`, and that `examine` changes nothing. The diagnoses have their own tests."""

import copy
import json
import time
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.autograd import Function

from gradscope import functional
from gradscope.doctor import Report, examine, time_function
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
        torch.tensor(numbers["Jacobian of x, numerical"]), torch.tensor([[3.0, 0], [0, 12]])
    )
    assert numbers["Jacobian of x, by backward"] == [[3.0, 0.0], [0.0, 12.0]]
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
        "why:",
        "next:",
        "test_examine.py:",
        "x.detach()",
        "[!] the second derivative",
    ):
        assert words in text
    assert max(len(line) for line in text.splitlines()) <= 110


def test_a_cut_graph_is_a_warning_if_no_second_derivative_is_requested():
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


@pytest.mark.timing
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


def test_a_consequence_is_under_its_cause():
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
    assert report.verdict.consequences[0][0].code.startswith("wrong-gradient")
    assert "also:" in str(report)


def test_a_lower_precision_inside_is_noted_and_raises_the_tolerance():
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
    assert states["the second derivative is right"] is None
    assert states["backward checks needs_input_grad"] is True
    assert states["the gradient is the derivative"] is False
    assert states["an approximate gradient was measured"] is None
    single = {item.text: item.is_met for item in examine(Cube, sample(3)).checklist}
    assert single["backward checks needs_input_grad"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            (3, sample(2)),
            "expected an autograd Function, its apply, an nn.Module or a callable, got int",
        ),
        ((nn.Linear, sample(2)), "got Linear"),
        ((Cube,), "expected at least one floating-point or complex tensor among its inputs, got none"),
        ((Cube, torch.ones(3, dtype=torch.int64), "a"), "got a tensor of int64, str"),
    ],
)
def test_what_cannot_be_examined_is_refused(arguments, words):
    with pytest.raises(UsageError, match=words):
        examine(*arguments)


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


class Affine(Function):
    """y = s (x + b), with both left out at will."""

    @staticmethod
    def forward(ctx, x, b=None, s=1.0):
        ctx.s = s
        y = x if b is None else x + b
        return y * s

    @staticmethod
    def backward(ctx, dy):
        needs = (*ctx.needs_input_grad, False)
        dx = ctx.s * dy if needs[0] else None
        db = (ctx.s * dy).sum(0) if needs[1] else None
        return (dx, db, None)[: len(ctx.needs_input_grad)]


class Noting(Function):
    """Says how it was called."""

    seen: list = []  # noqa: RUF012 - emptied by each test that reads it

    @staticmethod
    def forward(ctx, *inputs):
        Noting.seen.append((inputs, ctx.needs_input_grad))
        ctx.count = len(inputs)
        return sum(t * (i + 2) for i, t in enumerate(inputs) if isinstance(t, torch.Tensor))

    @staticmethod
    def backward(ctx, dy):
        needs = ctx.needs_input_grad
        return tuple(dy * (i + 2) if needs[i] else None for i in range(ctx.count))


def test_it_is_tried_on_one_row_on_none_on_strided_tensors_and_with_each_subset_of_needs():
    Noting.seen.clear()
    assert examine(Noting, sample(5, 3), sample(5, 3), sample(5, 3)).ok
    shapes = {tuple(inputs[0].shape) for inputs, _ in Noting.seen}
    assert shapes >= {(5, 3), (1, 3), (0, 3)}
    assert any(not inputs[0].is_contiguous() for inputs, _ in Noting.seen)
    assert {inputs[0].dtype for inputs, _ in Noting.seen} == {torch.float32, torch.float64}
    needs = {needs for _, needs in Noting.seen if any(needs)}
    assert len(needs) == 7


@pytest.mark.parametrize("form", ["class", "apply", "callable", "module"])
def test_a_fault_has_the_same_code_in_whatever_form_it_is_given(form):
    class Wrong(Cube):
        @staticmethod
        def backward(ctx, dy):
            return -Cube.backward(ctx, dy)

    class Layer(nn.Module):
        def forward(self, x):
            return Wrong.apply(x)

    forms = {
        "class": Wrong,
        "apply": Wrong.apply,
        "callable": lambda x: Wrong.apply(x) + 0,
        "module": Layer(),
    }
    assert examine(forms[form], sample(3, 4)).codes == ("wrong-gradient-sign",)


def test_each_optional_argument_is_left_out_by_itself_and_from_the_end():
    assert examine(Affine, sample(3, 4), sample(4), 2.0).ok

    class NeedsB(Affine):
        @staticmethod
        def forward(ctx, x, b=None, s=1.0):
            return Affine.forward(ctx, x, b + 0, s)

    report = examine(NeedsB, sample(3, 4), sample(4), 2.0)
    assert report.codes[0] == "forward-raises"
    assert report.findings[0].message.startswith("b left out: TypeError")
    assert any("b, s not passed" in f.message for f in report.verdict.consequences[0])


def test_a_callers_integer_tensor_is_not_written_to():
    class Counts(Function):
        @staticmethod
        def forward(ctx, x, seen):
            seen += 1
            return x * 3 + 1

        @staticmethod
        def backward(ctx, dy):
            return dy * 3, None

    seen = torch.zeros(2, dtype=torch.int64)
    assert examine(Counts, sample(3), seen).codes[0] == "forward-inplace-input"
    assert seen.tolist() == [0, 0]


def test_a_kink_at_the_input_is_noted_and_not_reported_as_a_finding():
    class Relu(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x.clamp(min=0) * 2

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return 2 * dy * (x > 0)

    report = examine(Relu, torch.tensor([0.0, 1.0, -2.0, 0.0]))
    assert report.codes == ()
    assert report.steps[3].numbers["x"].endswith("all 4 compared, 2 on a kink or an edge")
    assert "kink" in report.steps[4].numbers["gradcheck"]


def test_large_inputs_are_sampled_and_projected_and_that_is_said():
    report = examine(Cube, sample(64, 128))
    assert "of 8192 compared and 2 random projections of all" in report.steps[3].numbers["x"]
    assert report.steps[4].numbers["gradcheck"] == "passed (fast mode: random projections)"


def test_lines_are_those_of_the_fault_and_not_of_the_class():
    class Several(Function):
        @staticmethod
        def forward(ctx, x):
            scratch = torch.zeros_like(x)
            scratch += 1
            ctx.kept = x
            return x * 3 + scratch

        @staticmethod
        def backward(ctx, dy):
            mine = torch.ones_like(dy)
            mine *= 3
            dy *= mine
            return dy

    found = {f.code: f for f in examine(Several, sample(3, 4)).findings}
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()

    def line_of(code):
        return lines[int(found[code].where.rpartition(":")[2]) - 1].strip()

    assert line_of("grad-output-modified") == "dy *= mine"
    assert line_of("saved-on-ctx") == "ctx.kept = x"


def test_it_says_what_was_seen_by_reading_and_what_running_confirmed():
    class UsesData(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2 + x

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return (2 * x.data + 1) * dy

    report = examine(UsesData, sample(3))
    assert [(f.code, f.confidence) for f in report.findings] == [("uses-data", "structural")]
    assert [(f.code, f.confidence) for f in report.verdict.consequences[0]] == [
        ("graph-broken", "measured")
    ]

    class NeverReached(Function):
        @staticmethod
        def forward(ctx, x, alpha):
            raise ValueError("not today")

        @staticmethod
        def backward(ctx, dy):
            return dy, None, dy

    report = examine(NeverReached, sample(3), 2.0)
    assert report.codes == ("forward-raises", "wrong-gradient-count")
    assert report.findings[1].confidence == "structural"


def test_what_is_not_examined_is_noted():
    class Mapped(Cube):
        generate_vmap_rule = True

    notes = examine(Mapped, sample(3)).notes
    assert any("has a vmap rule, which is not examined" in note for note in notes)
    assert notes[0] == "no input requires a gradient: examined as if all did that can have one (x)"
    assert examine(Cube, sample(3).requires_grad_()).notes == ()
    with warnings.catch_warnings(), torch.autograd.forward_ad.dual_level():
        warnings.simplefilter("ignore")  # torch's own, of torch.jit
        dual = torch.autograd.forward_ad.make_dual(sample(3), sample(3))
        assert any("carries a tangent" in note for note in examine(Cube, dual).notes)


def test_several_draws_tell_noise_from_a_gradient_that_is_off():
    class Noisy(Function):
        @staticmethod
        def forward(ctx, x, off):
            ctx.save_for_backward(x)
            ctx.off = off
            return torch.sin(x)

        @staticmethod
        def backward(ctx, dy):
            (x,) = ctx.saved_tensors
            return dy * torch.cos(x) * (1 + ctx.off + 0.1 * torch.randn_like(x)), None

    def bias(off):
        said = examine(Noisy, sample(200), off, approximate=True).findings[0].evidence["spread"]
        assert said.startswith("8 draws, from ")
        return float(said.rpartition(" ")[2])

    assert bias(0.0) < 0.06  # 0.1 / sqrt(8) = 0.035
    assert bias(0.3) > 0.25
