"""What a Function leaves on ctx or hands back as it came: saved-on-ctx, input-returned-as-is.

And uses-data, which only the source shows.
"""

from collections.abc import Iterator
from typing import Final

from gradscope.doctor.examination import Examination
from gradscope.doctor.report.codes import Code
from gradscope.doctor.report.report import Finding
from gradscope.doctor.subject.ctx_memory import measure_ctx_memory
from gradscope.doctor.subject.instrument import CtxTensor

__all__ = [
    "INPUT_RETURNED_AS_IS",
    "SAVED_ON_CTX",
    "USES_DATA",
    "find_returned_inputs",
    "find_tensors_on_context",
    "find_uses_of_data",
]

USES_DATA: Final = Code(
    "uses-data",
    "warning",
    fault="`.data`",
    found_by="reading the source; confirmed where the graph turns out to be cut",
    explains=("graph-broken",),
)
SAVED_ON_CTX: Final = Code(
    "saved-on-ctx",
    "warning",
    fault="a tensor kept on ctx",
    found_by="the attributes of ctx after forward; masks and indices are fine. The bytes alive after backward, and after the output is gone, are measured",
    explains=("graph-broken",),
)
INPUT_RETURNED_AS_IS: Final = Code(
    "input-returned-as-is",
    "hint",
    fault="the input itself is returned",
    found_by="identity of objects",
)


def find_tensors_on_context(exam: Examination) -> Iterator[Finding]:
    """Find tensors that are attributes of ctx. Masks, indices and numbers are fine there."""
    for call in exam.first_run.calls:
        if call.held:
            names = ", ".join(f"ctx.{held.attribute}" for held in call.held)
            size = sum(held.size_bytes for held in call.held)
            yield SAVED_ON_CTX.finding(
                f"{call.function.__name__} keeps {size} bytes of tensors as {names}",
                cause="on ctx a tensor is not checked for later writes, escapes saved-tensor hooks "
                "(checkpointing, offloading) and stays after backward; an output kept there is a cycle",
                fix="ctx.save_for_backward(tensor) in forward, ctx.saved_tensors in backward",
                where=_line_that_sets(exam, {held.attribute for held in call.held}),
                evidence=[*(_kept(held) for held in call.held), *_memory_of_ctx(exam)],
            )


def _kept(held: CtxTensor) -> str:
    what = (
        "an argument of forward" if held.is_argument else "not an argument: the graph cannot follow it"
    )
    return f"ctx.{held.attribute}: {held.size_bytes} bytes, {what}"


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
            yield INPUT_RETURNED_AS_IS.finding(
                f"forward of {call.function.__name__} returns its argument {position} itself",
                cause="autograd makes the result a view of the input; a caller who writes to it in "
                "place (an in-place ReLU, say) gets an error",
                fix="return x.clone() where callers may write in place; view_as meets the same error",
                where=exam.location,
            )


def find_uses_of_data(exam: Examination) -> Iterator[Finding]:
    """Find `.data` in the source."""
    for fact in exam.facts:
        if fact.kind == "data":
            yield USES_DATA.finding(
                f".data is used in {fact.method}",
                cause=".data shares memory with the tensor and hides from autograd both the graph "
                "and any writing: later gradients are silently wrong",
                fix="use .detach() where the graph is to be cut, which at least notices writing; "
                "else the tensor itself",
                where=fact.where,
                evidence=(fact.text,),
                seen_by="reading",
            )
