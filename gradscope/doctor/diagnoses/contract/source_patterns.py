"""Faults that are visible in the source but not in a run: hard-coded devices and dtypes, wrong gradient counts."""

import inspect
from collections.abc import Iterable, Iterator

from torch.autograd import Function

from gradscope.doctor.examination import Examination
from gradscope.doctor.subject.source import SourceFact, read_function, where_defined
from gradscope.findings import Finding, finding

__all__ = [
    "find_hard_coded_devices",
    "find_uncalled_backward",
    "find_wrong_counts_in_source",
    "note_hard_coded_dtypes",
]

_BACKWARD = ("backward", "vjp")


def find_uncalled_backward(exam: Examination) -> Iterator[Finding]:
    """Find backward methods of modules and other callables, which autograd never calls.

    A backward that takes a loss is meant to be called by a training loop.
    """
    module = exam.subject.module
    owners = [exam.subject.call] if module is None else module.modules()
    for owner in dict.fromkeys(type(owner) for owner in owners):
        method = getattr(owner, "backward", None)
        names = list(inspect.signature(method).parameters) if inspect.isfunction(method) else []
        if method is not None and "loss" not in names:
            yield finding(
                "backward-never-called",
                f"{owner.__name__} has a method backward, which autograd never calls",
                cause=f"{owner.__name__} is not an autograd Function: the gradients are those of the operations "
                "in its forward",
                where=where_defined(method),
                confidence="structural",
            )


def find_wrong_counts_in_source(exam: Examination) -> Iterator[Finding]:
    """Find a return statement of backward whose number of values differs from forward's number of arguments.

    Used only if backward did not run: otherwise the returned values were counted.
    """
    failure = exam.first_run.failure
    if exam.first_run.is_connected and (failure is None or failure.phase == "backward"):
        return
    for function in exam.subject.functions:
        expected = _argument_counts(function)
        for fact in read_function(function):
            is_return = fact.kind == "return" and fact.method in _BACKWARD
            if not is_return or not expected or int(fact.target) in expected:
                continue
            if int(fact.target) > expected[-1] and fact.text.endswith("None"):
                continue  # additional values are allowed if they are None
            yield finding(
                "wrong-gradient-count",
                f"backward of {function.__name__} returns {fact.target} values, forward has "
                f"{expected[-1]} arguments",
                fix=f"return {expected[-1]} values, None for arguments that are not tensors",
                where=fact.where,
                evidence={"source": fact.text},
                confidence="structural",
            )


def find_hard_coded_devices(exam: Examination) -> Iterator[Finding]:
    """Find hard-coded devices that should be the device of a tensor."""
    for fact in _facts_once_per_line(exam, "device"):
        yield finding(
            "gradient-device-mismatch",
            f"a device is hard-coded in {fact.method}",
            cause="with inputs on another device, an operation gets tensors on both devices and raises",
            fix="use the device of a tensor: torch.zeros_like(x), x.new_zeros(...), device=x.device",
            where=fact.where,
            evidence={"source": fact.text},
            confidence="structural",
        )


def note_hard_coded_dtypes(exam: Examination) -> Iterable[Finding]:
    """Add a note on hard-coded dtypes. It is not a finding: only the checks that run the Function show an effect."""
    lines = [f"{fact.where} ({fact.text})" for fact in _facts_once_per_line(exam, "dtype")]
    if lines:
        exam.notes.append("a dtype is hard-coded (seen by reading) at " + "; ".join(lines))
    return ()


def _facts_once_per_line(exam: Examination, kind: str) -> list[SourceFact]:
    """Return the facts of a kind, at most one per line."""
    return list({fact.where: fact for fact in exam.facts if fact.kind == kind}.values())


def _argument_counts(function: type[Function]) -> list[int]:
    """Return the possible numbers of forward's arguments, ascending; empty if it accepts any number."""
    try:
        parameters = list(inspect.signature(function.forward).parameters.values())
    except (TypeError, ValueError):
        return []
    parameters = parameters[int(function.setup_context is Function.setup_context) :]
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        return []
    required = sum(p.default is p.empty for p in parameters)
    return list(range(required, len(parameters) + 1))
