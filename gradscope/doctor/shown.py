"""The numbers that a report shows: one element by hand, and small Jacobians and Hessians in full."""

from typing import Final

import torch

from gradscope.doctor.examination import Examination
from gradscope.doctor.numeric import jacobian
from gradscope.doctor.run import run

__all__ = ["first_element", "small_derivatives"]

_MOST_SHOWN: Final = 36
_BORDER: Final = 1e-4


def first_element(exam: Examination) -> dict[str, object]:
    """Return, for each leaf, the element with the largest error, and how many were compared."""
    numbers: dict[str, object] = {"step": exam.precision.step, "border": _BORDER}
    for comparison in exam.comparisons:
        name = exam.subject.leaves[comparison.leaf].name
        if not comparison.is_usable.any():
            numbers[name] = f"all {comparison.kinks} elements lie on a kink or an edge"
            continue
        place = int((comparison.error / (comparison.numeric.abs() + 1e-12)).argmax())
        backward, central = comparison.analytic[place].item(), comparison.numeric[place].item()
        numbers[name] = (
            f"element {int(comparison.indices[place])}: backward {backward:.6g}, central difference "
            f"{central:.6g}, error {float(comparison.error[place]):.1e}; {len(comparison.indices)} "
            f"compared, {comparison.kinks} on a kink or an edge"
        )
    return numbers


def small_derivatives(exam: Examination) -> dict[str, object]:
    """Return the Jacobian in the first leaf and the Hessian of the sum, where small and real."""
    leaf, outputs = exam.wide.leaves[0].value, exam.wide_run.outputs
    is_real = bool(outputs) and not (leaf.is_complex() or outputs[0].is_complex())
    if (
        not is_real
        or leaf.numel() * outputs[0].numel() > _MOST_SHOWN
        or not leaf.numel() * outputs[0].numel()
    ):
        return {}
    at = [one.value for one in exam.wide.leaves]
    found = jacobian(exam.values_of(exam.wide, exam.wide_run), at, 0, exam.precision)
    numbers: dict[str, object] = {"Jacobian, numerical": _rows(found)}
    hessian = _hessian(exam) if leaf.numel() ** 2 <= _MOST_SHOWN and exam.is_second_order else None
    return numbers if hessian is None else numbers | {"Hessian of the sum, by backward": _rows(hessian)}


def _hessian(exam: Examination) -> torch.Tensor | None:
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


def _rows(matrix: torch.Tensor) -> list[list[float]]:
    return [[round(float(v), 6) for v in row] for row in matrix.detach()]
