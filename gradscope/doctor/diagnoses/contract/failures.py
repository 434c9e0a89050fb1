"""Exceptions of the function: forward-raises, backward-raises, and three faults that have their own codes.

The three are non-tensor-saved, saved-tensors-in-forward and wrong-gradient-count.
"""

from collections.abc import Iterator
from dataclasses import replace

from torch import Tensor

from gradscope.doctor.diagnoses.gradients.repairs import find_running_repair, repaired, returning_tuples
from gradscope.doctor.diagnoses.gradients.transpose import find_raising_transpose
from gradscope.doctor.examination import Examination
from gradscope.doctor.report.messages import recognise
from gradscope.doctor.subject.instrument import FunctionCall
from gradscope.doctor.subject.run import Failure, run_forward
from gradscope.doctor.subject.subject import tensors_of
from gradscope.findings import Finding, finding

__all__ = [
    "failure_finding",
    "find_backward_failures",
    "find_forward_failures",
    "named",
]


def find_forward_failures(exam: Examination) -> Iterator[Finding]:
    """Find exceptions raised by forward, and their cause if the source shows it."""
    yield from _saved_tensors_in_forward(exam)
    failure = exam.first_run.failure
    if failure is not None and failure.phase == "forward":
        exam.skip_reason = "forward raises"
        yield failure_finding(failure)


def find_backward_failures(exam: Examination) -> Iterator[Finding]:
    """Find exceptions raised by backward, a wrong number of gradients, and outputs without a graph."""
    if exam.has_failed_in_forward:
        return
    nested: list[Finding] = []
    for call in exam.first_run.calls:
        yield from _wrong_count(exam, call)
        nested += _nested_outputs(exam, call)
    yield from nested
    failure = exam.first_run.failure
    if failure is not None:
        exam.skip_reason = "backward raises"
        raised = failure_finding(failure, exam.location)
        cure = None if raised.code == "wrong-gradient-count" else find_running_repair(exam)
        yield replace(raised, cause=cure[0], fix=cure[1]) if cure else raised
        transposed = find_raising_transpose(exam) if _is_about_sizes(failure) else None
        if transposed is not None:
            yield transposed
    elif not exam.first_run.is_connected:
        exam.skip_reason = "no output has a gradient"
        if nested:
            return
        yield finding(
            "missing-gradient",
            "no output depends on an input in the autograd graph",
            cause="forward returns a detached tensor, runs under no_grad, or marks its outputs as "
            "non-differentiable",
            fix="compute the output through Function.apply, and return floating-point tensors",
            where=exam.location,
        )


def _nested_outputs(exam: Examination, call: FunctionCall) -> Iterator[Finding]:
    """Find tensors that forward returns inside a list or dict, where autograd does not track them."""
    kinds = {type(y).__name__ for y in call.outputs if not isinstance(y, Tensor) and tensors_of(y)}
    if not kinds:
        return
    with repaired(returning_tuples(exam)):
        is_cured = run_forward(exam.subject).is_connected
    yield finding(
        "missing-gradient",
        f"forward of {call.function.__name__} returns tensors inside a {' and a '.join(sorted(kinds))}: they have "
        "no gradient",
        cause="autograd tracks only a tensor, or tensors in a tuple, that forward returns",
        fix="return a tuple of tensors"
        + (" (tried: the outputs then have a gradient)" if is_cured else ""),
        where=exam.location,
    )


def failure_finding(failure: Failure, fallback: str = "", *, on: str = "") -> Finding:
    """Return the finding for an exception. `on` names the variation of the inputs that raised it."""
    known = recognise(failure.text)
    code = "forward-raises" if failure.phase == "forward" else "backward-raises"
    if known is not None and known.name == "save_for_backward given non-tensors":
        code = "non-tensor-saved"
    elif known is not None and known.name == "expected X gradients, got Y":
        code = "wrong-gradient-count"
    return finding(
        code,
        (f"{on}: " if on else "") + failure.text.splitlines()[0],
        cause=known.cause if known else None,
        fix=known.cure if known else None,
        where=failure.where or fallback,
        evidence=named(failure.text),
    )


def named(text: str) -> dict[str, str]:
    """Return the known autograd message in a text, as evidence; empty if there is none."""
    known = recognise(text)
    return {"known_message": f"{known.name}: {known.cause}"} if known else {}


def _return_line(exam: Examination, count: int) -> str:
    lines = (
        f.where for f in exam.facts
        if f.kind == "return" and not f.is_in_forward and f.target == str(count)
    )  # fmt: skip
    return next(lines, exam.location)


def _is_about_sizes(failure: Failure) -> bool:
    known = recognise(failure.text)
    return known is not None and known.name == "sizes of tensors must match"


def _saved_tensors_in_forward(exam: Examination) -> Iterator[Finding]:
    for fact in exam.facts:
        if fact.kind == "saved_tensors" and fact.is_in_forward:
            yield finding(
                "saved-tensors-in-forward",
                f"ctx.saved_tensors is read in {fact.method}, where it is still empty",
                where=fact.where,
                evidence={"source": fact.text},
                confidence="structural",
            )


def _wrong_count(exam: Examination, call: FunctionCall) -> Iterator[Finding]:
    if call.returned is None:
        return
    expected, got = len(call.inputs), len(call.returned)
    if got == expected or (got > expected and all(g is None for g in call.returned[expected:])):
        return
    others = {
        f"argument {i}": f"of type {type(x).__name__}: return None for it"
        for i, x in enumerate(call.inputs)
        if not isinstance(x, Tensor)
    }
    yield finding(
        "wrong-gradient-count",
        f"backward of {call.function.__name__} returns {got} values, forward has {expected} arguments",
        fix=f"return {expected} values, None for arguments that are not tensors",
        where=_return_line(exam, got),
        evidence=others,
    )
