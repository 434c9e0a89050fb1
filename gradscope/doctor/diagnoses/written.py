"""Tensors that were written to and must not be, seen by comparing their content before and after.

Codes: forward-inplace-input, grad-output-modified, saved-tensor-modified.
"""

from collections.abc import Iterator

from gradscope.doctor.examination import Examination
from gradscope.doctor.report import Finding, found

__all__ = ["find_written_gradients", "find_written_inputs"]


def find_written_inputs(exam: Examination) -> Iterator[Finding]:
    """Find inputs that forward changes without mark_dirty."""
    changed = sorted(
        {(call.function.__name__, i) for call in exam.given.calls for i in call.changed_inputs}
    )
    for function, position in changed:
        yield found(
            "forward-inplace-input",
            f"forward of {function} changes its argument {position} in place",
            cause="the caller's tensor, and whatever else was computed from it, now holds other "
            "values, and autograd was not told",
            fix="work on a copy (x = x.clone(), or the out-of-place operation); if writing is the "
            "purpose, call ctx.mark_dirty(x) and return x",
            where=_line(exam, is_forward=True),
        )


def find_written_gradients(exam: Examination) -> Iterator[Finding]:
    """Find gradients and saved tensors that backward changes."""
    for call in exam.given.calls:
        name = call.function.__name__
        if call.changed_gradients:
            yield found(
                "grad-output-modified",
                f"backward of {name} changes grad_output in place",
                cause="grad_output belongs to autograd: other branches of the graph, and hooks, read "
                "the same memory",
                fix="compute a new tensor: grad = grad_output * mask, not grad_output *= mask; "
                "clone() first where in-place is needed",
                where=_line(exam, is_forward=False),
            )
        if call.changed_saved:
            yield found(
                "saved-tensor-modified",
                f"backward of {name} changes a saved tensor in place",
                cause="a saved tensor is shared with forward's input or output and with later "
                "backwards (retain_graph), which then see other values",
                fix="compute a new tensor from it, or clone() it before writing",
                where=_line(exam, is_forward=False),
                evidence=[f"saved tensor {i}" for i in call.changed_saved],
            )


def _line(exam: Examination, *, is_forward: bool) -> str:
    lines = (f.where for f in exam.facts if f.kind == "in-place" and f.is_in_forward == is_forward)
    return next(lines, exam.where)
