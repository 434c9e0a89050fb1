"""The numbers that a report shows for each of the five steps."""

from typing import Final, TypeAlias

import torch
from torch import Tensor

from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.backward_derivatives import hessian_by_backward, jacobian_by_backward
from gradscope.doctor.numerics.finite_differences import Comparison, jacobian
from gradscope.doctor.subject.run import run_subject

__all__ = [
    "Numbers",
    "derivatives_in_full",
    "gradient_magnitudes",
    "gradient_shapes",
    "one_element_by_hand",
    "shapes_of_forward",
]

Numbers: TypeAlias = dict[str, object]

_SHOWN_ELEMENTS_LIMIT: Final = 36
_BORDER: Final = 1e-4


def shapes_of_forward(exam: Examination) -> Numbers:
    """Return dtype and shape of each input and output."""
    return {
        "inputs": [f"{leaf.name} {_describe_tensor(leaf.value)}" for leaf in exam.subject.leaves],
        "outputs": [_describe_tensor(output) for output in exam.first_run.outputs],
    }


def gradient_shapes(exam: Examination) -> Numbers:
    """Return dtype and shape of each gradient."""
    if exam.has_failed_in_forward:
        return {}
    pairs = zip(exam.subject.leaves, exam.first_run.gradients, strict=False)
    return {"gradients": [f"{leaf.name} {_describe_tensor(g)}" for leaf, g in pairs if g is not None]}


def _describe_tensor(tensor: Tensor) -> str:
    bad = int((~tensor.isfinite()).sum())
    return (
        f"{tensor.dtype}".removeprefix("torch.")
        + f"{list(tensor.shape)}"
        + (f" {bad} not finite" if bad else "")
    )


def gradient_magnitudes(exam: Examination) -> Numbers:
    """Return the largest absolute element of each gradient."""
    pairs = zip(exam.subject.leaves, exam.first_run.gradients, strict=False)
    return {
        f"largest of {leaf.name}": float(g.abs().max())
        for leaf, g in pairs
        if g is not None and g.numel()
    }


def one_element_by_hand(exam: Examination) -> Numbers:
    """Return, for each leaf, the element with the largest relative error, and the number of compared elements."""
    numbers: Numbers = {"step": exam.precision.step, "border": _BORDER}
    for comparison in exam.comparisons:
        leaf = exam.in_double.leaves[comparison.leaf]
        if not comparison.is_usable.any():
            numbers[leaf.name] = f"all {comparison.kinks} elements lie on a kink or an edge"
            continue
        worst = int((comparison.error / (comparison.numeric.abs() + 1e-12)).argmax())
        backward, central = comparison.analytic[worst].item(), comparison.numeric[worst].item()
        numbers[leaf.name] = (
            f"element {_index_of_element(leaf.value, int(comparison.indices[worst]))}: "
            f"{_slopes_of_plain_sum(exam, comparison, worst)}"
            f"for random grad_outputs backward {backward:.6g}, central difference {central:.6g}, error "
            f"{float(comparison.error[worst]):.1e}; {_describe_sample(comparison, leaf.value.numel())}, "
            f"{comparison.kinks} on a kink or an edge"
        )
    return numbers


def _slopes_of_plain_sum(exam: Examination, comparison: Comparison, element: int) -> str:
    """Return the analytic and numerical derivative of the unweighted sum of the outputs, easy to compute by hand."""
    outcome = run_subject(exam.in_double, weigh=torch.ones_like)
    if outcome.failure is not None:
        return ""
    plain = exam.compare_leaf(
        exam.in_double, outcome, comparison.leaf, comparison.indices[element : element + 1]
    )
    backward, central = plain.analytic[0].item(), plain.numeric[0].item()
    return f"backward {backward:.6g}, central difference {central:.6g}; "


def _index_of_element(value: Tensor, index: int) -> list[int]:
    return [int(i) for i in torch.unravel_index(torch.tensor(index), value.shape)]


def _describe_sample(comparison: Comparison, count: int) -> str:
    if len(comparison.indices) == count:
        return f"all {count} compared"
    return f"{len(comparison.indices)} of {count} compared and 2 random projections of all"


def derivatives_in_full(exam: Examination) -> Numbers:
    """Return the dtype, small Jacobians, a small Hessian, and the results of gradcheck."""
    return {"dtype": str(exam.precision.dtype)} | _small_derivatives(exam) | exam.gradcheck_results


def _small_derivatives(exam: Examination) -> Numbers:
    """Return Jacobians of the first output and the Hessian of the sum, if they are small and real."""
    outcome = exam.double_run
    numbers: Numbers = {}
    if outcome.failure is not None or not outcome.outputs or not exam.precision.is_double:
        return {}
    for number, leaf in enumerate(exam.in_double.leaves):
        size = leaf.value.numel() * outcome.outputs[0].numel()
        is_real = not (leaf.value.is_complex() or outcome.outputs[0].is_complex())
        if is_real and leaf.is_needed and 0 < size <= _SHOWN_ELEMENTS_LIMIT:
            numbers |= _both_jacobians(exam, number, leaf.name)
    first = exam.in_double.leaves[0].value
    if numbers and exam.is_second_order and 0 < first.numel() ** 2 <= _SHOWN_ELEMENTS_LIMIT:
        hessian = hessian_by_backward(exam.in_double)
        if hessian is not None:
            numbers["Hessian of the sum, by backward"] = _rounded_rows(hessian)
    return numbers


def _both_jacobians(exam: Examination, number: int, name: str) -> Numbers:
    at = [one.value for one in exam.in_double.leaves]
    numeric = jacobian(exam.values_of(exam.in_double, exam.double_run), at, number, exam.precision)
    numbers: Numbers = {f"Jacobian of {name}, numerical": _rounded_rows(numeric)}
    by_backward = jacobian_by_backward(exam.in_double, exam.double_run, number)
    if by_backward is not None:
        numbers[f"Jacobian of {name}, by backward"] = _rounded_rows(by_backward)
    return numbers


def _rounded_rows(matrix: Tensor) -> list[list[float]]:
    return [[round(float(v), 6) for v in row] for row in matrix.detach()]
