"""missing-transpose where shapes are square: the Jacobian is the true one with two dims exchanged."""

from itertools import combinations
from typing import Final

import torch
from torch import Tensor

from gradscope.doctor.batches import with_first_rows
from gradscope.doctor.examination import Examination
from gradscope.doctor.numeric import jacobian
from gradscope.doctor.run import Run, run
from gradscope.doctor.subject import Subject

__all__ = ["exchanged_dims"]

_MOST_ELEMENTS: Final = 300_000
_MOST_SIDE: Final = 600


def exchanged_dims(exam: Examination, number: int) -> tuple[str, str] | None:
    """Return the names of the two dims whose exchange makes the gradient of a leaf right.

    A large subject is looked at with one row of its batch; where it is still too large, None.
    """
    subject = exam.wide
    if not _is_small(subject, number, exam.wide_run):
        smaller = with_first_rows(subject, 1)
        if smaller is None:
            return None
        subject = smaller
    outcome = run(subject)
    if outcome.failure is not None or not _is_small(subject, number, outcome):
        return None
    return _exchange(exam, subject, number, outcome)


def _is_small(subject: Subject, number: int, outcome: Run) -> bool:
    inputs, outputs = subject.leaves[number].value, outcome.outputs[0]
    sides = inputs.numel(), outputs.numel()
    is_real = not (inputs.is_complex() or outputs.is_complex())
    return (
        is_real
        and min(sides) > 0
        and max(sides) <= _MOST_SIDE
        and sides[0] * sides[1] <= _MOST_ELEMENTS
    )


def _exchange(exam: Examination, subject: Subject, number: int, outcome: Run) -> tuple[str, str] | None:
    at = [leaf.value for leaf in subject.leaves]
    x, y = at[number], outcome.outputs[0]
    true = jacobian(exam.values_of(subject, outcome), at, number, exam.precision).view(
        (*y.shape, *x.shape)
    )
    claimed = _claimed_jacobian(subject, number).view_as(true)
    atol = 1e-5 * float(true.abs().max())
    if torch.allclose(claimed, true, rtol=1e-3, atol=atol):
        return None  # one row of the batch alone does not show the fault
    names = [f"dim {d} of the output" for d in range(y.dim())]
    names += [f"dim {d} of {subject.leaves[number].name}" for d in range(x.dim())]
    for first, second in combinations(range(true.dim()), 2):
        if true.shape[first] == true.shape[second] > 1:
            turned = true.transpose(first, second)
            if torch.allclose(claimed, turned, rtol=1e-3, atol=atol):
                return names[first], names[second]
    return None


def _claimed_jacobian(subject: Subject, number: int) -> Tensor:
    rows = []
    leaf = subject.leaves[number].value
    count = run(subject).outputs[0].numel()
    for i in range(count):

        def one(output: Tensor, i: int = i) -> Tensor:
            weights = torch.zeros_like(output)
            weights.view(-1)[i] = 1
            return weights

        gradient = run(subject, weigh=one).gradients[number]
        rows.append(
            torch.zeros_like(leaf).view(-1) if gradient is None else gradient.detach().reshape(-1)
        )
    return torch.stack(rows)
