"""Repeats forward, backward, and calls before a backward: noise and state outside of ctx then show."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from torch import Tensor

from gradscope.doctor.diagnoses.gradients.repairs import makes_backward_repeatable, repeatable_backwards
from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.agreement import agree
from gradscope.doctor.subject.batches import with_first_rows
from gradscope.doctor.subject.outside_state import OutsideState
from gradscope.doctor.subject.run import ForwardBackwardRun, run_backward, run_forward, run_subject
from gradscope.doctor.subject.subject import Subject, is_strided
from gradscope.findings import Finding, finding

__all__ = ["find_nondeterminism", "find_state_outside_ctx", "find_unrepeatable_backward"]

_ROUNDINGS: Final = 100


def find_state_outside_ctx(exam: Examination) -> Iterator[Finding]:
    """Call the function on the inputs and on other inputs, then run backward through both calls.

    Each gradient must be the one that it is without the other call.
    """
    if exam.skip_reason or not exam.are_gradients_reproducible:
        return
    for other in _other_calls(exam.subject):
        first = run_forward(exam.subject)
        outside = OutsideState((exam.subject.call, exam.subject.module, exam.subject.functions))
        second = run_forward(other)
        if second.failure is not None:
            continue
        changed = outside.changes()
        alone = exam.second_run, run_subject(other)
        together = run_backward(first), run_backward(second)
        fault = next(filter(None, map(_describe_difference, alone, together)), "")
        if fault:
            is_exception = "raises" in fault
            yield finding(
                "backward-raises" if is_exception else "wrong-gradient",
                f"called twice before backward, as a layer that is used twice: {fault}",
                cause="the function keeps values outside of ctx, and the second call replaces them"
                if changed
                else "a second call changes something that backward of the first call reads",
                fix="keep tensors with ctx.save_for_backward and other values as attributes of ctx: each call "
                "has its own",
                where=exam.location,
                severity="warning" if is_exception else None,
                evidence={"changed_by_the_second_call": ", ".join(changed[:5])} if changed else None,
            )
            return


def _other_calls(subject: Subject) -> Iterator[Subject]:
    """Yield the subject with other values, with other whole numbers, and on fewer rows."""
    count = subject.input_count
    values = [
        leaf.value * 0.75 + 0.05 if leaf.position < count else leaf.value for leaf in subject.leaves
    ]
    arguments = [_other_argument(a) if i < count else a for i, a in enumerate(subject.arguments)]
    yield replace(subject.with_values(values), arguments=tuple(arguments))
    numbers = [a + 1 if type(a) is int else a for a in subject.arguments]
    if any(type(a) is int for a in subject.arguments):
        yield replace(subject, arguments=tuple(numbers))
    row = with_first_rows(subject, 1)
    if row is not None:
        yield row


def _other_argument(argument: object) -> object:
    if isinstance(argument, Tensor) and is_strided(argument):
        return argument.roll(1)
    return argument * 1.25 if isinstance(argument, float) else argument


def _describe_difference(alone: ForwardBackwardRun, together: ForwardBackwardRun) -> str:
    if alone.failure is not None:
        return ""
    if together.failure is not None:
        return str(together.failure).splitlines()[0]
    if agree(alone.gradients, together.gradients, roundings=_ROUNDINGS):
        return ""
    return "the gradients are not those of two single calls"


def find_unrepeatable_backward(exam: Examination) -> Iterator[Finding]:
    """Run backward twice through one graph, as `retain_graph=True` allows."""
    if exam.skip_reason:
        return
    first = run_backward(run_forward(exam.subject), retain_graph=True)
    second = run_backward(first)
    if first.failure is not None or not first.is_connected:
        return
    if second.failure is not None:
        exam.is_backward_repeatable = False
        cures = [
            (c, f) for c, f, wrap in repeatable_backwards() if makes_backward_repeatable(exam, wrap)
        ]
        cause, fix = cures[0] if cures else ("backward frees or changes something that it reads", "")
        yield finding(
            "backward-raises",
            f"a second backward through the same graph (retain_graph=True) raises: "
            f"{second.failure.text.splitlines()[0]}",
            cause=f"backward runs once: {cause}",
            fix=f"{fix} (tried: it then runs twice)"
            if fix
            else "perhaps keep what backward frees, or compute it again in each backward",
            where=second.failure.where or exam.location,
            severity="warning",
        )
    elif not agree(first.gradients, second.gradients, roundings=_ROUNDINGS):
        exam.is_backward_repeatable = False
        yield finding(
            "nondeterministic",
            "a second backward through the same graph (retain_graph=True) gives other gradients",
            cause="backward changes something that it reads: an attribute of ctx, a buffer, a counter",
            fix="do not change in backward what it reads",
            where=exam.location,
        )


def find_nondeterminism(exam: Examination) -> Iterator[Finding]:
    """Compare outputs and gradients of two runs; only outputs if the gradient is declared as approximate.

    Random numbers do not differ between runs, because the generators are seeded. A function that draws them in
    forward is examined like others; a gradient that is random by itself has no derivative to be compared with.
    """
    if exam.skip_reason:
        return
    parts = [] if exam.are_outputs_reproducible else ["the outputs"]
    if not exam.is_approximate and not exam.are_gradients_reproducible:
        parts.append("the gradients")
    if parts:
        exam.skip_reason = "two runs differ"
        yield finding(
            "nondeterministic",
            f"{' and '.join(parts)} of two runs on the same inputs differ, also with the same seed",
            where=exam.location,
        )
    elif exam.random_parts == ("the gradients",) and not exam.is_approximate:
        exam.skip_reason = "the gradient is random"
        yield finding(
            "nondeterministic",
            "the gradients of two runs on the same inputs differ, and the outputs do not",
            cause="backward draws random numbers",
            fix="save what forward has drawn; if the gradient is a random approximation, pass approximate=True",
            where=exam.location,
        )
    elif "the outputs" in exam.random_parts:
        yield finding(
            "nondeterministic",
            "the outputs depend on random numbers",
            cause="the function draws from a global generator; it was examined with the same seed in each run",
            fix="nothing, if it is intended; to repeat a result, use a generator that the caller seeds, or pass "
            "the noise as an argument",
            where=exam.location,
            severity="hint",
        )
