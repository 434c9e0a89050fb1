"""Finds gradients that are right after a matrix is transposed.

There are two tests: backward is run with one of its matrices transposed, for any size; and a small Jacobian is
compared with the true Jacobian with two dims exchanged, which also covers a matrix in a closure.
"""

from itertools import combinations
from typing import Final

import torch

from gradscope.doctor.diagnoses.gradients.repairs import find_right_repair, transpositions
from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.backward_derivatives import jacobian_by_backward
from gradscope.doctor.numerics.finite_differences import jacobian
from gradscope.doctor.subject.run import ForwardBackwardRun
from gradscope.doctor.subject.subject import Subject
from gradscope.findings import Finding, finding

__all__ = ["explain_by_transpose", "find_raising_transpose", "missing_transpose"]


_MOST_ELEMENTS: Final = 300_000
_MOST_SIDE: Final = 600
_FIX: Final = (
    "for y = x @ w: dx = dy @ w.mT and dw = x.mT @ dy; for y = x @ w.mT: dx = dy @ w and dw = dy.mT @ x"
)


def explain_by_transpose(exam: Examination, number: int) -> str:
    """Return a sentence on the transposition that makes a leaf's gradient right; "" if there is none."""
    name = exam.subject.leaves[number].name
    clause = find_right_repair(exam, number, transpositions(exam))
    if clause:
        return f"the gradient of {name} is right once {clause} in backward"
    dims = _exchanged_dims(exam, number)
    return (
        f"the gradient of {name} is the derivative with {dims[0]} and {dims[1]} exchanged"
        if dims
        else ""
    )


def find_raising_transpose(exam: Examination) -> Finding | None:
    """Find a transposition with which backward no longer raises, as happens if the matrices are not square."""
    for number, leaf in enumerate(exam.subject.leaves):
        if leaf.is_needed:
            clause = find_right_repair(exam, number, transpositions(exam), at_most=2)
            if clause:
                return missing_transpose(
                    f"backward raises, and gives the right gradient of {leaf.name} once {clause}",
                    exam.location,
                )
    return None


def missing_transpose(message: str, where: str, evidence: dict[str, str] | None = None) -> Finding:
    """Return the finding for a missing transpose, with the rule for matrix products."""
    return finding(
        "missing-transpose",
        message,
        fix=_FIX,
        where=where,
        evidence=evidence,
    )


def _exchanged_dims(exam: Examination, number: int) -> tuple[str, str] | None:
    """Return the names of the two dims whose exchange makes the gradient right; None if there are none or too large."""
    if not _is_small(exam.in_double, number, exam.double_run):
        return None
    return _find_exchanged_dims(exam, number)


def _is_small(subject: Subject, number: int, outcome: ForwardBackwardRun) -> bool:
    inputs, outputs = subject.leaves[number].value, outcome.outputs[0]
    sides = inputs.numel(), outputs.numel()
    is_real = not (inputs.is_complex() or outputs.is_complex())
    return (
        is_real
        and min(sides) > 0
        and max(sides) <= _MOST_SIDE
        and sides[0] * sides[1] <= _MOST_ELEMENTS
    )


def _find_exchanged_dims(exam: Examination, number: int) -> tuple[str, str] | None:
    at = [leaf.value for leaf in exam.in_double.leaves]
    x, y = at[number], exam.double_run.outputs[0]
    by_backward = jacobian_by_backward(exam.in_double, exam.double_run, number)
    if by_backward is None:
        return None
    true = jacobian(exam.values_of(exam.in_double, exam.double_run), at, number, exam.precision)
    true, by_backward = true.view((*y.shape, *x.shape)), by_backward.view((*y.shape, *x.shape))
    atol = 1e-5 * float(true.abs().max())
    if torch.allclose(by_backward, true, rtol=1e-3, atol=atol):
        return None  # the fault is not in the first output
    names = [f"dim {d} of the output" for d in range(y.dim())]
    names += [f"dim {d} of {exam.in_double.leaves[number].name}" for d in range(x.dim())]
    for first, second in combinations(range(true.dim()), 2):
        if true.shape[first] == true.shape[second] > 1:
            exchanged = true.transpose(first, second)
            if torch.allclose(by_backward, exchanged, rtol=1e-3, atol=atol):
                return names[first], names[second]
    return None
