"""Finds tensors that are attributes of ctx, inputs that forward returns unchanged, and uses of `.data`."""

from collections.abc import Iterator

from gradscope.doctor.examination import Examination
from gradscope.doctor.subject.ctx_memory import measure_ctx_memory
from gradscope.doctor.subject.instrument import CtxTensor, FunctionCall
from gradscope.findings import Finding, finding

__all__ = [
    "find_returned_inputs",
    "find_tensors_on_context",
    "find_uses_of_data",
]


def find_tensors_on_context(exam: Examination) -> Iterator[Finding]:
    """Find tensors that are attributes of ctx. Masks, indices and Python numbers are allowed there."""
    for call in exam.first_run.calls:
        if call.held:
            names = ", ".join(f"ctx.{held.attribute}" for held in call.held)
            size = sum(held.size_bytes for held in call.held)
            yield finding(
                "saved-on-ctx",
                f"{call.function.__name__} keeps {size} bytes of tensors as {names}",
                fix=_fix_for_kept_tensors(call),
                where=_line_that_sets(exam, {held.attribute for held in call.held}),
                evidence=dict(map(_describe_kept_tensor, call.held)) | _memory_of_ctx(exam),
            )


def _fix_for_kept_tensors(call: FunctionCall) -> str:
    fix = "use ctx.save_for_backward(tensor) in forward and ctx.saved_tensors in backward"
    computed = [f"ctx.{held.attribute}" for held in call.held if held.role == "an intermediate"]
    if not computed:
        return fix
    return (
        f"save the arguments of forward with ctx.save_for_backward, and compute {', '.join(computed)} from "
        "them in backward; if no second derivative is needed, it is enough to pass it to save_for_backward "
        "and to declare backward with @once_differentiable"
    )


def _describe_kept_tensor(held: CtxTensor) -> tuple[str, str]:
    without = ", which has no graph in backward" if held.role == "an intermediate" else ""
    return f"ctx.{held.attribute}", f"{held.size_bytes} bytes, {held.role} of forward{without}"


def _memory_of_ctx(exam: Examination) -> dict[str, str]:
    if exam.first_run.failure is not None or not exam.first_run.is_connected:
        return {}
    return measure_ctx_memory(exam.subject)


def _line_that_sets(exam: Examination, attributes: set[str]) -> str:
    lines = (f.where for f in exam.facts if f.kind == "ctx attribute" and f.target in attributes)
    return next(lines, exam.location)


def find_returned_inputs(exam: Examination) -> Iterator[Finding]:
    """Find inputs that forward returns as they are."""
    for call in exam.first_run.calls:
        for position in call.returned_inputs:
            yield finding(
                "input-returned-as-is",
                f"forward of {call.function.__name__} returns its argument {position} unchanged",
                where=exam.location,
            )


def find_uses_of_data(exam: Examination) -> Iterator[Finding]:
    """Find `.data` in the source."""
    for fact in exam.facts:
        if fact.kind == "data":
            yield finding(
                "uses-data",
                f".data is used in {fact.method}",
                where=fact.where,
                evidence={"source": fact.text},
                confidence="structural",
            )
