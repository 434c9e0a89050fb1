"""Optional arguments left out, and each subset of inputs that require a gradient."""

import inspect
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

import torch
from torch.autograd import Function

from gradscope.doctor.diagnoses.failures import failure_finding
from gradscope.doctor.diagnoses.wrong_gradient import plain_wrong_gradient
from gradscope.doctor.examination import Examination
from gradscope.doctor.report import Finding, found
from gradscope.doctor.run import run
from gradscope.doctor.subject import Subject

__all__ = ["find_option_failures", "find_subset_failures"]


def find_subset_failures(exam: Examination) -> Iterator[Finding]:
    """Switch gradients off in turn: what remains must be what it was."""
    for needed in _subsets([leaf.is_needed for leaf in exam.subject.leaves]):
        names = ", ".join(leaf.name for leaf, n in zip(exam.subject.leaves, needed, strict=True) if n)
        outcome = run(exam.subject, needed=needed)
        if outcome.failure is not None:
            yield failure_finding(outcome.failure, exam.where, on=f"only {names} requires a gradient")
            continue
        for leaf, n, before, now in zip(
            exam.subject.leaves, needed, exam.given.gradients, outcome.gradients, strict=True
        ):
            if (
                n
                and before is not None
                and (now is None or not torch.allclose(before, now, rtol=1e-3, atol=1e-5))
            ):
                yield found(
                    "missing-gradient" if now is None else "wrong-gradient",
                    f"only {names} requires a gradient: that of {leaf.name} is "
                    + ("None" if now is None else "another than before"),
                    cause="what is computed for one input depends on whether another needs a gradient",
                    fix="test each ctx.needs_input_grad[i] by itself",
                    where=exam.where,
                )


def find_option_failures(exam: Examination) -> Iterator[Finding]:
    """Leave out trailing arguments that have a default."""
    shorter = exam.wide
    for name in reversed(_given_options(exam.subject)):
        shorter = _without_last(shorter)
        if not shorter.leaves or not any(leaf.is_needed for leaf in shorter.leaves):
            return
        outcome = run(shorter)
        if outcome.failure is not None:
            yield failure_finding(outcome.failure, exam.where, on=f"{name} left out")
        elif not exam.is_approximate and all(c.is_right for c in exam.comparisons):
            for comparison in exam.compare(shorter, outcome):
                if not comparison.is_right:
                    yield plain_wrong_gradient(shorter, comparison, exam.where, on=f"{name} left out")


def _subsets(needed: list[bool]) -> list[list[bool]]:
    """Return all proper subsets of up to three inputs; of more, each alone and each left out."""
    on = [i for i, n in enumerate(needed) if n]
    sizes = range(1, len(on)) if len(on) <= 3 else (1, len(on) - 1)
    return [
        [i in chosen for i in range(len(needed))] for size in sizes for chosen in combinations(on, size)
    ]


def _given_options(subject: Subject) -> list[str]:
    """Return the names of trailing arguments that were given and have a default."""
    owner = getattr(subject.call, "__self__", None)
    described: Any = subject.call  # Any: a callable of whatever signature
    skipped = 0
    if isinstance(owner, type) and issubclass(owner, Function):
        described, skipped = owner.forward, int(owner.setup_context is Function.setup_context)
    if subject.module is not None:
        return []
    try:
        parameters = list(inspect.signature(described).parameters.values())[skipped:]
    except (TypeError, ValueError):
        return []
    given = parameters[: len(subject.arguments)]
    names: list[str] = []
    for parameter in given:
        is_option = parameter.default is not parameter.empty
        names = [*names, parameter.name] if is_option else []
    return names


def _without_last(subject: Subject) -> Subject:
    last = len(subject.arguments) - 1
    leaves = tuple(leaf for leaf in subject.leaves if leaf.position != last)
    return replace(subject, arguments=subject.arguments[:-1], leaves=leaves)
