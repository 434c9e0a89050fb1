"""In-place writes to inputs, grad_output and saved tensors, detected by values and version counters."""

from collections.abc import Iterator, Sequence
from typing import Final

from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.agreement import agree
from gradscope.doctor.subject.instrument import backward_name
from gradscope.doctor.subject.run import run_subject
from gradscope.doctor.subject.source import parameters_of
from gradscope.findings import Finding, finding

__all__ = [
    "find_modified_gradients",
    "find_modified_inputs",
]


_FORWARD: Final = ("forward", "setup_context")
_BACKWARD: Final = ("backward", "vjp")


def find_modified_inputs(exam: Examination) -> Iterator[Finding]:
    """Find inputs that forward modifies without mark_dirty."""
    changed = sorted(
        {(call.function.__name__, i) for call in exam.first_run.calls for i in call.modified_inputs}
    )
    for function, position in changed:
        is_statistic = _is_mere_statistic(exam, function, position)
        yield finding(
            "forward-inplace-input",
            f"forward of {function} changes its argument {position} in place"
            + (": a running statistic on which the result does not depend" if is_statistic else ""),
            where=_line_of_write(exam, _FORWARD, [_argument_name(exam, function, position)]),
            severity="hint" if is_statistic else None,
        )


def find_modified_gradients(exam: Examination) -> Iterator[Finding]:
    """Find gradients and saved tensors that backward modifies."""
    for call in exam.first_run.calls:
        name = call.function.__name__
        own = parameters_of(call.function, backward_name(call.function))
        if call.modified_gradients:
            yield finding(
                "grad-output-modified",
                f"backward of {name} changes grad_output in place",
                where=_line_of_write(exam, _BACKWARD, own),
            )
        if call.modified_saved:
            yield finding(
                "saved-tensor-modified",
                f"backward of {name} changes a saved tensor in place",
                where=_line_of_write(exam, _BACKWARD, own, is_meant=False),
                evidence={"saved_tensors": ", ".join(map(str, call.modified_saved))},
            )


def _line_of_write(
    exam: Examination, methods: Sequence[str], names: Sequence[str], *, is_meant: bool = True
) -> str:
    """Return the line of an in-place write to one of the names, or of the first in-place write.

    is_meant: if False, look for a write to a variable that is not one of the names.
    """
    facts = [f for f in exam.facts if f.kind == "in-place" and f.method in methods]
    meant = [fact for fact in facts if (fact.target in names) == is_meant]
    return next((fact.where for fact in (*meant, *facts)), exam.location)


def _argument_name(exam: Examination, function: str, position: int) -> str:
    owner = next(f for f in exam.subject.functions if f.__name__ == function)
    return dict(enumerate(parameters_of(owner, "forward"))).get(position, "")


def _is_mere_statistic(exam: Examination, function: str, position: int) -> bool:
    """Return whether a modified input needs no gradient and its old values do not affect the outputs.

    An example is the running mean of a normalisation, which PyTorch's own layers also modify.
    """
    leaf = next((leaf for leaf in exam.subject.leaves if leaf.position == position), None)
    is_direct = [f.__name__ for f in exam.subject.functions] == [function] and exam.subject.is_direct
    if leaf is None or leaf.is_needed or not is_direct or exam.first_run.failure is not None:
        return False
    moved = [each.value * 1.37 + 0.11 if each is leaf else each.value for each in exam.subject.leaves]
    other = run_subject(exam.subject.with_values(moved))
    return other.failure is None and agree(exam.first_run.outputs, other.outputs, roundings=0.0)
