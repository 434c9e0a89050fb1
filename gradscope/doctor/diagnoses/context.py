"""What a Function leaves on ctx or hands back as it came: saved-on-ctx, input-returned-as-is.

And uses-data, which only the source shows.
"""

from collections.abc import Iterator

from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.leak import measure_leak
from gradscope.doctor.report.report import Finding, found
from gradscope.doctor.subject.instrument import Held

__all__ = ["find_returned_inputs", "find_tensors_on_context", "find_uses_of_data"]


def find_tensors_on_context(exam: Examination) -> Iterator[Finding]:
    """Find tensors that are attributes of ctx. Masks, indices and numbers are fine there."""
    for call in exam.given.calls:
        if call.held:
            names = ", ".join(f"ctx.{held.attribute}" for held in call.held)
            size = sum(held.size_bytes for held in call.held)
            yield found(
                "saved-on-ctx",
                f"{call.function.__name__} keeps {size} bytes of tensors as {names}",
                cause="on ctx a tensor is not checked for later writes, escapes saved-tensor hooks "
                "(checkpointing, offloading) and stays after backward; an output kept there is a cycle",
                fix="ctx.save_for_backward(tensor) in forward, ctx.saved_tensors in backward",
                where=_line_that_sets(exam, {held.attribute for held in call.held}),
                evidence=[*(_kept(held) for held in call.held), *measure_leak(exam)],
            )


def _kept(held: Held) -> str:
    what = (
        "an argument of forward" if held.is_argument else "not an argument: the graph cannot follow it"
    )
    return f"ctx.{held.attribute}: {held.size_bytes} bytes, {what}"


def _line_that_sets(exam: Examination, attributes: set[str]) -> str:
    lines = (f.where for f in exam.facts if f.kind == "ctx attribute" and f.target in attributes)
    return next(lines, exam.where)


def find_returned_inputs(exam: Examination) -> Iterator[Finding]:
    """Find inputs that forward returns as they are."""
    for call in exam.given.calls:
        for position in call.returned_inputs:
            yield found(
                "input-returned-as-is",
                f"forward of {call.function.__name__} returns its argument {position} itself",
                cause="autograd makes the result a view of the input; a caller who writes to it in "
                "place (an in-place ReLU, say) gets an error",
                fix="return x.clone() where callers may write in place; view_as meets the same error",
                where=exam.where,
            )


def find_uses_of_data(exam: Examination) -> Iterator[Finding]:
    """Find `.data` in the source."""
    for fact in exam.facts:
        if fact.kind == "data":
            yield found(
                "uses-data",
                f".data is used in {fact.method}",
                cause=".data shares memory with the tensor and hides from autograd both the graph "
                "and any writing: later gradients are silently wrong",
                fix="use .detach() where the graph is to be cut, which at least notices writing; "
                "else the tensor itself",
                where=fact.where,
                evidence=(fact.text,),
                seen_by="reading",
            )
