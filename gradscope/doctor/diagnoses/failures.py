"""What raises: forward-raises, backward-raises, and the three faults that have a code of their own.

Those are non-tensor-saved, saved-tensors-in-forward and wrong-gradient-count.
"""

from collections.abc import Iterator

from torch import Tensor

from gradscope.doctor.diagnoses.transpose import find_raising_transpose
from gradscope.doctor.examination import Examination
from gradscope.doctor.report.messages import recognise
from gradscope.doctor.report.report import Finding, found
from gradscope.doctor.subject.instrument import Call
from gradscope.doctor.subject.run import Failure

__all__ = ["failure_finding", "find_backward_failures", "find_forward_failures", "named"]


def find_forward_failures(exam: Examination) -> Iterator[Finding]:
    """Find what keeps forward from running."""
    yield from _saved_tensors_in_forward(exam)
    failure = exam.given.failure
    if failure is not None and failure.phase == "forward":
        exam.blocked = "forward raises"
        yield failure_finding(failure)


def find_backward_failures(exam: Examination) -> Iterator[Finding]:
    """Find what keeps backward from running, the number of gradients first."""
    for call in exam.given.calls:
        yield from _wrong_count(exam, call)
    failure = exam.given.failure
    if failure is not None:
        exam.blocked = "backward raises"
        yield failure_finding(failure, exam.where)
        transposed = find_raising_transpose(exam) if _is_about_sizes(failure) else None
        if transposed is not None:
            yield transposed
    elif not exam.given.is_connected:
        exam.blocked = "no output has a gradient"
        yield found(
            "missing-gradient",
            "no output depends on an input as far as autograd can see",
            cause="forward returns a detached tensor, runs under no_grad, or its outputs are marked "
            "as non-differentiable",
            fix="compute the output through Function.apply, and return floating-point tensors",
            where=exam.where,
        )


def failure_finding(failure: Failure, fallback: str = "", *, on: str = "") -> Finding:
    """Return the finding for an exception; `on` says in which variation it was raised."""
    known = recognise(failure.text)
    code = f"{failure.phase}-raises"
    if known is not None and known.name == "save_for_backward given non-tensors":
        code = "non-tensor-saved"
    elif known is not None and known.name == "expected X gradients, got Y":
        code = "wrong-gradient-count"
    return found(
        code,
        (f"{on}: " if on else "") + failure.text.splitlines()[0],
        cause=known.cause if known else f"{failure.phase} raised an exception on these inputs",
        fix=known.cure if known else "run it by itself on these inputs, and read the line named here",
        where=failure.where or fallback,
        evidence=named(failure.text),
    )


def named(text: str) -> tuple[str, ...]:
    """Return as evidence which of the known messages a text is; empty where it is none."""
    known = recognise(text)
    return (f'the known message "{known.name}": {known.cause}',) if known else ()


def _return_line(exam: Examination, count: int) -> str:
    lines = (
        f.where for f in exam.facts
        if f.kind == "return" and not f.is_in_forward and f.target == str(count)
    )  # fmt: skip
    return next(lines, exam.where)


def _is_about_sizes(failure: Failure) -> bool:
    known = recognise(failure.text)
    return known is not None and known.name == "sizes of tensors must match"


def _saved_tensors_in_forward(exam: Examination) -> Iterator[Finding]:
    for fact in exam.facts:
        if fact.kind == "saved_tensors" and fact.is_in_forward:
            yield found(
                "saved-tensors-in-forward",
                f"ctx.saved_tensors is read in {fact.method}, where it is still empty",
                cause="what save_for_backward was given can be read only when backward runs",
                fix="use the tensor itself in forward; read ctx.saved_tensors in backward only",
                where=fact.where,
                evidence=(fact.text,),
                seen_by="reading",
            )


def _wrong_count(exam: Examination, call: Call) -> Iterator[Finding]:
    if call.returned is None:
        return
    expected, got = len(call.inputs), len(call.returned)
    if got == expected or (got > expected and all(g is None for g in call.returned[expected:])):
        return
    others = [
        f"argument {i} is {type(x).__name__}: return None for it"
        for i, x in enumerate(call.inputs)
        if not isinstance(x, Tensor)
    ]
    yield found(
        "wrong-gradient-count",
        f"backward of {call.function.__name__} returns {got} values, forward has {expected} arguments",
        cause="backward must return one value for each argument of forward, ctx not counted",
        fix=f"return {expected} values, None for arguments that are no tensors",
        where=_return_line(exam, got),
        evidence=others,
    )
