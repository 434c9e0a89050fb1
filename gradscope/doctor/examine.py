"""`examine`: a custom autograd Function, or anything that can be called, looked at in five steps."""

import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import Tensor

from gradscope.doctor.diagnoses.approximate import find_poor_approximations
from gradscope.doctor.diagnoses.builtin import find_reimplementations
from gradscope.doctor.diagnoses.context import (
    find_returned_inputs,
    find_tensors_on_context,
    find_uses_of_data,
)
from gradscope.doctor.diagnoses.determinism import find_nondeterminism
from gradscope.doctor.diagnoses.failures import find_backward_failures, find_forward_failures
from gradscope.doctor.diagnoses.gradcheck import find_gradcheck_failures, run_checks
from gradscope.doctor.diagnoses.inplace_writes import find_written_gradients, find_written_inputs
from gradscope.doctor.diagnoses.layouts import find_layout_failures
from gradscope.doctor.diagnoses.magnitude import find_odd_magnitudes
from gradscope.doctor.diagnoses.needs_input_grad import find_wasted_work
from gradscope.doctor.diagnoses.nonfinite import find_nonfinite_gradients, find_nonfinite_outputs
from gradscope.doctor.diagnoses.options import find_option_failures, find_subset_failures
from gradscope.doctor.diagnoses.returned_gradients import find_mismatched_gradients
from gradscope.doctor.diagnoses.second_order import find_second_order_faults
from gradscope.doctor.diagnoses.shapes import find_batch_failures
from gradscope.doctor.diagnoses.source_patterns import (
    find_counts_by_reading,
    find_hard_coded_devices,
    note_hard_coded_dtypes,
)
from gradscope.doctor.diagnoses.wrong_gradient import find_wrong_gradients
from gradscope.doctor.examination import Examination
from gradscope.doctor.input_notes import notes_on
from gradscope.doctor.progress import progress
from gradscope.doctor.report.checklist import close
from gradscope.doctor.report.report import Finding, Report, Step, order_findings
from gradscope.doctor.report.report_numbers import first_element, small_derivatives
from gradscope.doctor.subject.subject import Examinable, resolve

__all__ = ["examine"]

Diagnosis: TypeAlias = Callable[[Examination], Iterable[Finding]]
Numbers: TypeAlias = dict[str, object]


def examine(
    function: Examinable,
    *inputs: object,
    approximate: bool = False,
    second_order: bool = True,
    name: str | None = None,
) -> Report:
    """Examine a function on example inputs, and return what was found.

    `function` is an autograd Function class, its apply, an nn.Module or any callable of tensors.
    Gradients are examined for the inputs that require one; for all floating-point and complex
    tensors where none does (and for a module's parameters). Numbers are compared in double; neither
    the inputs nor a module nor the random state are changed. `approximate` grades the error of a
    gradient that is meant to be inexact; `second_order` says that second derivatives are wanted,
    which makes a cut graph an error.

    Raises UsageError where `function` cannot be called or no input can have a gradient. What the
    function itself raises is a finding.
    """
    subject = resolve(function, inputs, name)
    devices = sorted({leaf.value.device.index or 0 for leaf in subject.leaves if leaf.value.is_cuda})
    with torch.random.fork_rng(devices), torch.enable_grad():
        exam = Examination(subject, is_approximate=approximate, is_second_order=second_order)
        exam.look_inside()
        exam.notes += notes_on(subject, inputs)
        findings: list[Finding] = []
        with progress(f"examining {subject.name}") as line:
            steps = []
            for plan in _STEPS:
                line.text = f"examining {subject.name}, step {plan.number} of {len(_STEPS)}"
                steps.append(_perform(plan, exam, findings))
        ordered = order_findings(findings)
        checklist = close(exam, ordered)
    return Report(subject.name, ordered, tuple(steps), checklist, tuple(dict.fromkeys(exam.notes)))


@dataclass(frozen=True, slots=True)
class _Plan:
    """One of the five steps: what it looks for, and which numbers it shows."""

    number: int
    title: str
    perform: Callable[[Examination, list[Finding]], Numbers]
    is_numerical: bool = True


def _perform(plan: _Plan, exam: Examination, findings: list[Finding]) -> Step:
    if plan.is_numerical and exam.blocked:
        return Step(plan.number, plan.title, "skipped", {}, 0.0, exam.blocked)
    start, before = time.perf_counter(), len(findings)
    with warnings.catch_warnings():
        if plan.is_numerical:
            warnings.simplefilter("ignore")  # of a batch of one row, say, which only we have made
        numbers = plan.perform(exam, findings)
    is_failed = any(finding.severity == "error" for finding in findings[before:])
    status = "failed" if is_failed else "passed"
    return Step(plan.number, plan.title, status, numbers, round(time.perf_counter() - start, 6))


def _diagnose(exam: Examination, findings: list[Finding], *diagnoses: Diagnosis) -> None:
    for diagnosis in diagnoses:
        findings.extend(diagnosis(exam))


def _forward(exam: Examination, findings: list[Finding]) -> Numbers:
    _diagnose(
        exam,
        findings,
        *(find_forward_failures, find_written_inputs, find_tensors_on_context),
        *(find_returned_inputs, find_uses_of_data, find_nonfinite_outputs),
        *(find_counts_by_reading, find_hard_coded_devices),
    )
    note_hard_coded_dtypes(exam)
    return {
        "inputs": [f"{leaf.name} {_described(leaf.value)}" for leaf in exam.subject.leaves],
        "outputs": [_described(output) for output in exam.given.outputs],
    }


def _backward(exam: Examination, findings: list[Finding]) -> Numbers:
    if exam.given.failure is not None and exam.given.failure.phase == "forward":
        return {}
    _diagnose(
        exam,
        findings,
        *(
            find_backward_failures,
            find_written_gradients,
            find_mismatched_gradients,
            find_nonfinite_gradients,
        ),
    )
    if not exam.blocked:
        _diagnose(exam, findings, find_nondeterminism, find_wasted_work)
    pairs = zip(exam.subject.leaves, exam.given.gradients, strict=False)
    return {"gradients": [f"{leaf.name} {_described(g)}" for leaf, g in pairs if g is not None]}


def _magnitudes(exam: Examination, findings: list[Finding]) -> Numbers:
    _diagnose(exam, findings, find_odd_magnitudes)
    pairs = zip(exam.subject.leaves, exam.given.gradients, strict=False)
    return {
        f"largest of {leaf.name}": float(g.abs().max())
        for leaf, g in pairs
        if g is not None and g.numel()
    }


def _by_hand(exam: Examination, findings: list[Finding]) -> Numbers:
    _diagnose(exam, findings, find_poor_approximations if exam.is_approximate else find_wrong_gradients)
    return first_element(exam)


def _in_full(exam: Examination, findings: list[Finding]) -> Numbers:
    is_right = all(c.is_right for c in exam.comparisons)
    if exam.are_gradients_repeatable:
        _diagnose(exam, findings, find_layout_failures, find_subset_failures)
    _diagnose(exam, findings, find_option_failures, find_batch_failures)
    numbers: Numbers = {"dtype": str(exam.precision.dtype)} | small_derivatives(exam)
    if exam.is_approximate:
        return numbers
    if not any(f.code.startswith(("wrong-gradient", "missing-")) for f in findings):
        exam.done.add("second order")
        _diagnose(exam, findings, find_second_order_faults)
    if not is_right:
        return numbers | {"gradcheck": "not run: the gradient is not the derivative"}
    numbers |= run_checks(exam, is_twice=not any(f.code in _SECOND for f in findings))
    findings.extend(find_gradcheck_failures(exam, numbers))
    if all(f.severity != "error" for f in findings):
        exam.done.add("built-in")
        _diagnose(exam, findings, find_reimplementations)
    return numbers


_SECOND: Final = ("graph-broken", "not-twice-differentiable", "wrong-second-gradient")

_STEPS: Final = (
    _Plan(1, "forward runs: shape, NaN, Inf", _forward, is_numerical=False),
    _Plan(2, "backward runs: shapes, NaN, Inf", _backward, is_numerical=False),
    _Plan(3, "magnitudes: 1e-6 to 1e6", _magnitudes),
    _Plan(4, "one element by hand: central difference", _by_hand),
    _Plan(5, "in full: gradcheck, gradgradcheck, shapes, options", _in_full),
)


def _described(tensor: Tensor) -> str:
    bad = int((~tensor.isfinite()).sum())
    return (
        f"{tensor.dtype}".removeprefix("torch.")
        + f"{list(tensor.shape)}"
        + (f" {bad} not finite" if bad else "")
    )
