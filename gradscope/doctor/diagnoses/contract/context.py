"""Finds tensors that are attributes of ctx, inputs that forward returns unchanged, and uses of `.data`."""

from collections.abc import Iterator

from gradscope.doctor.examination import Examination
from gradscope.doctor.report import codes
from gradscope.doctor.report.report import Finding
from gradscope.doctor.subject.ctx_memory import measure_ctx_memory
from gradscope.doctor.subject.instrument import CtxTensor, FunctionCall

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
            yield codes.SAVED_ON_CTX.finding(
                f"{call.function.__name__} keeps {size} bytes of tensors as {names}",
                cause="autograd does not check attributes of ctx for later writes, does not pass them to "
                "saved-tensor hooks (checkpointing, offloading) and does not free them after backward; an "
                "output among them is a reference cycle",
                fix=_fix_for_kept_tensors(call),
                where=_line_that_sets(exam, {held.attribute for held in call.held}),
                evidence=[*(_describe_kept_tensor(held) for held in call.held), *_memory_of_ctx(exam)],
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


def _describe_kept_tensor(held: CtxTensor) -> str:
    without = ", which has no graph in backward" if held.role == "an intermediate" else ""
    return f"ctx.{held.attribute}: {held.size_bytes} bytes, {held.role} of forward{without}"


def _memory_of_ctx(exam: Examination) -> Iterator[str]:
    if exam.first_run.failure is None and exam.first_run.is_connected:
        yield from measure_ctx_memory(exam.subject)


def _line_that_sets(exam: Examination, attributes: set[str]) -> str:
    lines = (f.where for f in exam.facts if f.kind == "ctx attribute" and f.target in attributes)
    return next(lines, exam.location)


def find_returned_inputs(exam: Examination) -> Iterator[Finding]:
    """Find inputs that forward returns as they are."""
    for call in exam.first_run.calls:
        for position in call.returned_inputs:
            yield codes.INPUT_RETURNED_AS_IS.finding(
                f"forward of {call.function.__name__} returns its argument {position} unchanged",
                cause="autograd makes the result a view of the input; a caller that writes to it in "
                "place (such as an in-place ReLU) gets an error",
                fix="return x.clone() if callers may write in place; view_as causes the same error",
                where=exam.location,
            )


def find_uses_of_data(exam: Examination) -> Iterator[Finding]:
    """Find `.data` in the source."""
    for fact in exam.facts:
        if fact.kind == "data":
            yield codes.USES_DATA.finding(
                f".data is used in {fact.method}",
                cause=".data shares memory with the tensor, and autograd sees neither its graph nor "
                "writes to it: gradients can be silently wrong",
                fix="use .detach() to cut the graph, which still detects in-place writes; otherwise "
                "use the tensor itself",
                where=fact.where,
                evidence=(fact.text,),
                seen_by="reading",
            )
