"""Variations of the call: omitted optional arguments, and subsets of inputs that require a gradient."""

import inspect
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any, Final

import torch
from torch.autograd import Function

from gradscope.doctor.diagnoses.contract.failures import failure_finding
from gradscope.doctor.diagnoses.gradients.wrong_gradient import (
    MISSING_GRADIENT,
    WRONG_GRADIENT,
    plain_wrong_gradient,
)
from gradscope.doctor.examination import Examination
from gradscope.doctor.report.report import Finding
from gradscope.doctor.subject.run import run_subject
from gradscope.doctor.subject.subject import Subject

__all__ = ["find_option_failures", "find_subset_failures"]

_ALL_SUBSETS: Final = 5


def find_subset_failures(exam: Examination) -> Iterator[Finding]:
    """Disable the gradients of some inputs, and check that the remaining gradients do not change."""
    if not exam.are_gradients_reproducible:
        return
    for needed in _subsets([leaf.is_needed for leaf in exam.subject.leaves]):
        names = ", ".join(leaf.name for leaf, n in zip(exam.subject.leaves, needed, strict=True) if n)
        outcome = run_subject(exam.subject, needed=needed)
        if outcome.failure is not None:
            yield failure_finding(
                outcome.failure, exam.location, on=f"only {names} requires a gradient"
            )
            continue
        for leaf, n, before, now in zip(
            exam.subject.leaves, needed, exam.first_run.gradients, outcome.gradients, strict=True
        ):
            if (
                n
                and before is not None
                and (now is None or not torch.allclose(before, now, rtol=1e-3, atol=1e-5))
            ):
                code = MISSING_GRADIENT if now is None else WRONG_GRADIENT
                yield code.finding(
                    f"only {names} requires a gradient: that of {leaf.name} is "
                    + ("None" if now is None else "different from that with all inputs"),
                    cause="the gradient of one input depends on whether another one needs a gradient",
                    fix="check each ctx.needs_input_grad[i] separately",
                    where=exam.location,
                )


def find_option_failures(exam: Examination) -> Iterator[Finding]:
    """Omit arguments that have a default: the last ones together, and each one alone."""
    can_compare = not exam.is_approximate and exam.is_gradient_right
    for left_out, fewer in _variations(exam.in_double):
        if not any(leaf.is_needed for leaf in fewer.leaves):
            continue
        outcome = run_subject(fewer)
        if outcome.failure is not None:
            yield failure_finding(outcome.failure, exam.location, on=left_out)
        elif can_compare and outcome.is_connected:
            for comparison in exam.compare(fewer, outcome):
                if not comparison.is_right:
                    yield plain_wrong_gradient(fewer, comparison, exam.location, on=left_out)


def _variations(subject: Subject) -> Iterator[tuple[str, Subject]]:
    """Yield a description of the omitted arguments, and the subject without these."""
    given = _parameters_given(subject)
    optional = [i for i, p in enumerate(given) if p.default is not p.empty]
    for i in optional:
        if not _is_default(subject.arguments[i], given[i].default):
            yield f"{given[i].name} left out", _with_default(subject, i, given[i].default)
    trailing = [i for i in optional if all(j in optional for j in range(i, len(given)))]
    if subject.module is None:  # the parameters of a module follow its inputs
        for i in reversed(trailing):
            names = ", ".join(p.name for p in given[i:])
            yield f"{names} not passed", _cut(subject, i)


def _subsets(needed: list[bool]) -> list[list[bool]]:
    """Return all proper subsets for up to five inputs; for more inputs, each input alone and all inputs but one."""
    on = [i for i, n in enumerate(needed) if n]
    sizes = range(1, len(on)) if len(on) <= _ALL_SUBSETS else (1, len(on) - 1)
    return [
        [i in chosen for i in range(len(needed))] for size in sizes for chosen in combinations(on, size)
    ]


def _parameters_given(subject: Subject) -> list[inspect.Parameter]:
    """Return the parameters of the signature for which arguments were passed, in order."""
    owner = getattr(subject.call, "__self__", None)
    described: Any = (
        subject.module.forward if subject.module is not None else subject.call
    )  # Any: returned unchanged
    skipped = 0
    if isinstance(owner, type) and issubclass(owner, Function):
        described, skipped = owner.forward, int(owner.setup_context is Function.setup_context)
    try:
        parameters = list(inspect.signature(described).parameters.values())[skipped:]
    except (TypeError, ValueError):
        return []
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return positional[: subject.input_count]


def _is_default(argument: object, default: object) -> bool:
    is_plain = isinstance(argument, bool | int | float | str | tuple)
    return argument is default or (is_plain and argument == default)


def _with_default(subject: Subject, position: int, default: object) -> Subject:
    arguments = tuple(default if i == position else a for i, a in enumerate(subject.arguments))
    leaves = tuple(leaf for leaf in subject.leaves if leaf.position != position)
    return replace(subject, arguments=arguments, leaves=leaves)


def _cut(subject: Subject, position: int) -> Subject:
    leaves = tuple(leaf for leaf in subject.leaves if leaf.position < position)
    return replace(subject, arguments=subject.arguments[:position], leaves=leaves)
