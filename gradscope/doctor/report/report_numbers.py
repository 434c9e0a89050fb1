"""The numbers that a report shows: one element by hand, and small Jacobians and Hessians in full."""

from typing import Final

import torch
from torch import Tensor

from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.finite_differences import Comparison, jacobian
from gradscope.doctor.subject.run import run

__all__ = ["claimed_jacobian", "first_element", "small_derivatives"]

_MOST_SHOWN: Final = 36
_BORDER: Final = 1e-4


def first_element(exam: Examination) -> dict[str, object]:
    """Return, for each leaf, the element with the largest error, and how many were compared."""
    numbers: dict[str, object] = {"step": exam.precision.step, "border": _BORDER}
    for comparison in exam.comparisons:
        leaf = exam.wide.leaves[comparison.leaf]
        if not comparison.is_usable.any():
            numbers[leaf.name] = f"all {comparison.kinks} elements lie on a kink or an edge"
            continue
        place = int((comparison.error / (comparison.numeric.abs() + 1e-12)).argmax())
        backward, central = comparison.analytic[place].item(), comparison.numeric[place].item()
        numbers[leaf.name] = (
            f"element {_place(leaf.value, int(comparison.indices[place]))}: "
            f"{_plainly(exam, comparison, place)}"
            f"for random grad_outputs backward {backward:.6g}, central difference {central:.6g}, error "
            f"{float(comparison.error[place]):.1e}; {_compared(comparison, leaf.value.numel())}, "
            f"{comparison.kinks} on a kink or an edge"
        )
    return numbers


def _plainly(exam: Examination, comparison: Comparison, place: int) -> str:
    """Say both slopes of the plain sum of the outputs, which a person would compute by hand."""
    outcome = run(exam.wide, weigh=torch.ones_like)
    if outcome.failure is not None:
        return ""
    plain = exam.compare_leaf(
        exam.wide, outcome, comparison.leaf, comparison.indices[place : place + 1]
    )
    backward, central = plain.analytic[0].item(), plain.numeric[0].item()
    return f"backward {backward:.6g}, central difference {central:.6g}; "


def _place(value: Tensor, index: int) -> list[int]:
    return [int(i) for i in torch.unravel_index(torch.tensor(index), value.shape)]


def _compared(comparison: Comparison, count: int) -> str:
    if len(comparison.indices) == count:
        return f"all {count} compared"
    return f"{len(comparison.indices)} of {count} compared and 2 random projections of all"


def small_derivatives(exam: Examination) -> dict[str, object]:
    """Return the Jacobians of the first output and the Hessian of the sum, where small and real."""
    outcome = exam.wide_run
    numbers: dict[str, object] = {}
    if outcome.failure is not None or not outcome.outputs or not exam.precision.is_double:
        return {}
    for number, leaf in enumerate(exam.wide.leaves):
        size = leaf.value.numel() * outcome.outputs[0].numel()
        is_real = not (leaf.value.is_complex() or outcome.outputs[0].is_complex())
        if is_real and leaf.is_needed and 0 < size <= _MOST_SHOWN:
            numbers |= _jacobians(exam, number, leaf.name)
    first = exam.wide.leaves[0].value
    if numbers and exam.is_second_order and 0 < first.numel() ** 2 <= _MOST_SHOWN:
        hessian = _hessian(exam)
        if hessian is not None:
            numbers["Hessian of the sum, by backward"] = _rows(hessian)
    return numbers


def _jacobians(exam: Examination, number: int, name: str) -> dict[str, object]:
    at = [one.value for one in exam.wide.leaves]
    numeric = jacobian(exam.values_of(exam.wide, exam.wide_run), at, number, exam.precision)
    shown: dict[str, object] = {f"Jacobian of {name}, numerical": _rows(numeric)}
    claimed = claimed_jacobian(exam, number)
    if claimed is not None:
        shown[f"Jacobian of {name}, by backward"] = _rows(claimed)
    return shown


def claimed_jacobian(exam: Examination, number: int) -> Tensor | None:
    """Return the Jacobian of the first output that backward claims, one backward a row."""
    rows: list[Tensor] = []
    leaf, outputs = exam.wide.leaves[number].value, exam.wide_run.outputs
    if not outputs[0].requires_grad:
        return None
    for i in range(outputs[0].numel()):
        gradient = run(exam.wide, weigh=_OneElement(i)).gradients[number]
        rows.append(torch.zeros_like(leaf).reshape(-1) if gradient is None else gradient.reshape(-1))
    return torch.stack(rows)


class _OneElement:
    """Gradients of 1 for one element of the first output, and of 0 for all else."""

    def __init__(self, index: int) -> None:
        self._index: int | None = index

    def __call__(self, output: Tensor) -> Tensor:
        weights = torch.zeros_like(output, memory_format=torch.contiguous_format)
        if self._index is not None:
            weights.view(-1)[self._index] = 1
            self._index = None
        return weights


def _hessian(exam: Examination) -> Tensor | None:
    outcome = run(exam.wide, weigh=torch.ones_like, create_graph=True)
    gradient = outcome.gradients[0] if outcome.gradients and outcome.failure is None else None
    if gradient is None or not gradient.requires_grad:
        return None
    rows = []
    try:
        for element in gradient.reshape(-1):
            (row,) = torch.autograd.grad(
                element, outcome.leaves[0], retain_graph=True, allow_unused=True
            )
            rows.append(torch.zeros_like(gradient).reshape(-1) if row is None else row.reshape(-1))
    except RuntimeError:
        return None  # declared to be differentiable once: a finding says so
    return torch.stack(rows)


def _rows(matrix: Tensor) -> list[list[float]]:
    return [[round(float(v), 6) for v in row] for row in matrix.detach()]
