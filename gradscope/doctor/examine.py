"""`examine`: runs the five steps of an examination on one function and returns the report."""

import time
import warnings
from collections.abc import Sequence

import torch

from gradscope.doctor.checklist import make_checklist
from gradscope.doctor.diagnoses.registry import STEPS, PlannedStep
from gradscope.doctor.examination import Examination
from gradscope.doctor.input_notes import notes_on
from gradscope.doctor.progress import progress
from gradscope.doctor.report.report import ExaminationStep, Report
from gradscope.doctor.subject.outside_state import OutsideState, random_states_restored
from gradscope.doctor.subject.subject import Examinable, Subject, resolve

__all__ = ["examine"]


def examine(
    function: Examinable,
    *inputs: object,
    approximate: bool = False,
    second_order: bool = True,
    name: str | None = None,
) -> Report:
    """Examine a function on example inputs, and return the report.

    function: an autograd Function class, its apply, an nn.Module or any callable of tensors.
    inputs: the arguments of the function. Gradients are examined for the inputs that require one; if none does, for
        all floating-point and complex tensors. A module's parameters are included.
    approximate: grade the error of a gradient that is meant to be inexact.
    second_order: whether second derivatives are needed; then a cut graph is an error.
    name: the name in the report, instead of the function's own.

    Values are compared in double precision. The inputs, the module and the random state are not changed.

    Raises UsageError if `function` cannot be called or no input can have a gradient. An exception of the
    function itself is a finding.
    """
    subject = resolve(function, inputs, name)
    outside = OutsideState((function, inputs, subject.functions))
    try:
        with random_states_restored([leaf.value for leaf in subject.leaves]), torch.enable_grad():
            return _examine(subject, inputs, is_approximate=approximate, is_second_order=second_order)
    finally:
        outside.restore()


def _examine(
    subject: Subject, inputs: Sequence[object], *, is_approximate: bool, is_second_order: bool
) -> Report:
    exam = Examination(subject, is_approximate=is_approximate, is_second_order=is_second_order)
    exam.find_inner_functions()
    exam.notes += notes_on(subject, inputs)
    with progress(f"examining {subject.name}") as line:
        steps = []
        for plan in STEPS:
            line.text = f"examining {subject.name}, step {plan.number} of {len(STEPS)}"
            steps.append(_perform_step(plan, exam))
    return Report.of(
        subject.name,
        exam.findings,
        steps=tuple(steps),
        checklist=make_checklist(exam),
        notes=tuple(dict.fromkeys(exam.notes)),
    )


def _perform_step(plan: PlannedStep, exam: Examination) -> ExaminationStep:
    if plan.is_numerical and exam.skip_reason:
        return ExaminationStep(plan.number, plan.title, "skipped", {}, 0.0, exam.skip_reason)
    start, before = time.perf_counter(), len(exam.findings)
    with warnings.catch_warnings():
        if plan.is_numerical:
            # Inputs generated here, such as a batch of one row, may cause warnings.
            warnings.simplefilter("ignore")
        for diagnosis in plan.diagnoses:
            try:
                exam.findings.extend(diagnosis(exam))
            except Exception as error:  # noqa: BLE001 - the other diagnoses go on
                exam.notes.append(_note_on_failed_diagnosis(diagnosis.__name__, error))
        try:
            numbers = plan.numbers(exam)
        except Exception as error:  # noqa: BLE001 - as above
            numbers = {}
            exam.notes.append(_note_on_failed_diagnosis(f"the numbers of step {plan.number}", error))
    is_failed = any(finding.severity == "error" for finding in exam.findings[before:])
    time_s = round(time.perf_counter() - start, 6)
    return ExaminationStep(
        plan.number, plan.title, "failed" if is_failed else "passed", numbers, time_s
    )


def _note_on_failed_diagnosis(what: str, error: Exception) -> str:
    return f"not examined: {what} failed with {type(error).__name__}: {error}".splitlines()[0]
