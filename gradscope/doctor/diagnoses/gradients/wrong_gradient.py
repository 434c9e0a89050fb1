"""Gradients that differ from the derivative: missing, or wrong by a sign, a factor, a transpose, or otherwise."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

import torch
from torch import Tensor

from gradscope.doctor.diagnoses.gradients.by_design import explain_by_design, is_identity
from gradscope.doctor.diagnoses.gradients.repairs import (
    Repair,
    conjugations,
    exchanges,
    find_right_repair,
    redraws,
)
from gradscope.doctor.diagnoses.gradients.transpose import explain_by_transpose, missing_transpose
from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.agreement import agree
from gradscope.doctor.numerics.finite_differences import Comparison
from gradscope.doctor.subject.run import run_subject, weights_like
from gradscope.doctor.subject.subject import Subject
from gradscope.findings import Finding, finding

__all__ = [
    "find_wrong_gradients",
    "plain_wrong_gradient",
]


_ROUNDINGS: Final = 100

_Repairs: TypeAlias = Callable[[Examination, int], Iterator[Repair]]


def find_wrong_gradients(exam: Examination) -> Iterator[Finding]:
    """Find leaves whose gradient differs from finite differences, with the simplest explanation."""
    if exam.is_approximate:
        return
    for comparison in exam.comparisons:
        if comparison.is_right:
            continue
        number = comparison.leaf
        if exam.double_run.gradients[number] is None:
            yield _missing_gradient_finding(exam, comparison)
        else:
            yield (
                _ignored_grad_output(exam, comparison)
                or explain_by_design(exam, comparison)
                or _finding_with_explanation(exam, comparison)
            )


def plain_wrong_gradient(
    subject: Subject, comparison: Comparison, fallback: str, *, on: str = ""
) -> Finding:
    """Return a wrong-gradient finding with the wrong elements and the region of their values.

    on: the variation of the inputs, if any.
    """
    leaf = subject.leaves[comparison.leaf]
    worst = int((comparison.error / comparison.tolerance).argmax())
    index = _index_of(int(comparison.indices[worst]), leaf.value.shape)
    wrong, count = int(comparison.is_wrong.sum()), int(comparison.is_usable.sum())
    x = leaf.value.reshape(-1)[comparison.indices[worst]].item()
    place = _region_of_wrong_elements(comparison, leaf.value)
    return finding(
        "wrong-gradient",
        (f"{on}: " if on else "")
        + f"the gradient of {leaf.name} is wrong in {wrong} of {count} elements compared",
        where=fallback,
        evidence={f"at {leaf.name}{index} = {x:.6g}": _analytic_and_numeric(comparison, worst)}
        | ({"wrong_only": place} if place else {}),
    )


def _missing_gradient_finding(exam: Examination, comparison: Comparison) -> Finding:
    name = exam.subject.leaves[comparison.leaf].name
    return finding(
        "missing-gradient",
        f"backward returns None for {name}, on which the output depends",
        fix=f"compute and return the gradient of {name}; if it should have none, pass it without "
        "requires_grad",
        where=exam.location,
        evidence={"largest_central_difference": float(comparison.numeric.abs().max())},
    )


def _ignored_grad_output(exam: Examination, comparison: Comparison) -> Finding | None:
    """Find a gradient that does not depend on the grad_output of an output."""
    if is_identity(exam, comparison) or not comparison.analytic.any():
        return None
    name, gradient = exam.subject.leaves[comparison.leaf].name, exam.double_run.gradients
    ends = [y for y in exam.double_run.outputs if y.requires_grad]
    for number, end in enumerate(ends):
        small = run_subject(exam.in_double, weigh=_SmallerGradOutput(number))
        if agree(gradient, small.gradients, roundings=_ROUNDINGS):
            which = f"grad_output {number}" if len(ends) > 1 else "grad_output"
            is_cured = end.numel() == len(ends) == 1 and _is_right_if_multiplied(
                comparison, exam.double_run.weights[0].reshape(()).cpu()
            )
            return finding(
                "wrong-gradient",
                f"backward ignores {which}: the gradient of {name} is the same for g and for "
                + ("g / 1000" if end.numel() == 1 else "other values of g"),
                cause=f"backward returns a gradient that does not contain {which}, which is 1 only in "
                "loss.backward(): a weight of the loss, gradient accumulation and a loss scale have no effect",
                fix=f"multiply the gradient that backward returns for {name} by {which}"
                + (" (tried: it is then the derivative)" if is_cured else ""),
                where=exam.location,
                evidence=_largest_error(comparison),
            )
    return None


def _is_right_if_multiplied(comparison: Comparison, factor: Tensor) -> bool:
    error = (comparison.analytic * factor - comparison.numeric).abs()
    return bool((error <= comparison.tolerance)[comparison.is_usable].all())


class _SmallerGradOutput:
    """Returns the usual grad_output for each output in order, and a smaller one for one of them.

    If that one has several elements, the signs differ, too.
    """

    def __init__(self, number: int) -> None:
        self._left = number

    def __call__(self, output: Tensor) -> Tensor:
        self._left -= 1
        if self._left != -1:
            return weights_like(output)
        return weights_like(output, 0 if output.numel() == 1 else 5) / 1000


def _finding_with_explanation(exam: Examination, comparison: Comparison) -> Finding:
    name = exam.subject.leaves[comparison.leaf].name
    factor = _constant_factor(exam, comparison)
    if factor is not None and abs(factor + 1) < 1e-4:
        return finding(
            "wrong-gradient-sign",
            f"the gradient of {name} is the derivative with its sign flipped",
            where=exam.location,
            evidence=_largest_error(comparison),
        )
    if factor is not None:
        return finding(
            "wrong-gradient-scale",
            f"the gradient of {name} is {factor:.6g} times the derivative, everywhere",
            fix=f"divide the gradient that backward returns for it by {factor:.6g}",
            where=exam.location,
            evidence=_largest_error(comparison),
        )
    plain = plain_wrong_gradient(exam.in_double, comparison, exam.location)
    for repairs, cause, fix in _CURES:
        clause = find_right_repair(exam, comparison.leaf, repairs(exam, comparison.leaf))
        if clause:
            message = f"the gradient of {name} is right once {clause} in backward"
            return replace(plain, message=message, cause=cause, fix=f"{fix} (tried)")
    transposed = explain_by_transpose(exam, comparison.leaf)
    if transposed:
        return missing_transpose(transposed, exam.location, _largest_error(comparison))
    return plain


_CURES: Final[Sequence[tuple[_Repairs, str, str]]] = (
    (
        exchanges,
        "backward returns the gradients in another order than forward takes its arguments",
        "return the gradients in the order of the arguments",
    ),
    (
        redraws,
        "backward draws random numbers of its own: another mask or noise than that of forward",
        "save what forward drew, such as the mask, with ctx.save_for_backward",
    ),
    (
        conjugations,
        "a conjugate is missing: a complex product has the conjugate of the other factor in its gradient",
        "use the conjugate in backward: grad_output * w.conj()",
    ),
)
"""Repairs of backward, the fault that they would cure, and the cure."""


def _constant_factor(exam: Examination, comparison: Comparison) -> float | None:
    """Return the factor between backward and the derivative; None if it is not one constant.

    If there are few elements, other points are compared as well.
    """
    pairs = [comparison]
    if int(comparison.is_usable.sum()) < 4:
        pairs += _compare_at_other_points(exam, comparison.leaf)
    numeric = torch.cat([c.numeric[c.is_usable] for c in pairs])
    analytic = torch.cat([c.analytic[c.is_usable] for c in pairs])
    tolerance = torch.cat([c.tolerance[c.is_usable] for c in pairs])
    if numeric.is_complex() or len(numeric) < 3 or not bool((numeric.abs() > tolerance).any()):
        return None
    factor = float((numeric * analytic).sum() / (numeric * numeric).sum())
    is_constant = bool(((analytic - factor * numeric).abs() <= tolerance * max(1.0, abs(factor))).all())
    return factor if is_constant and factor != 0 else None


def _compare_at_other_points(exam: Examination, number: int) -> list[Comparison]:
    """Return comparisons of a leaf at three other points where the function is finite."""
    points = []
    for stretch in (0.61, 1.37, 1.9):
        # Each leaf is scaled differently: a homogeneous function would keep the factor of its error.
        leaves = enumerate(exam.in_double.leaves, 1)
        moved = exam.in_double.with_values([leaf.value * stretch**power for power, leaf in leaves])
        outcome = run_subject(moved)
        is_finite = outcome.failure is None and all(y.isfinite().all() for y in outcome.outputs)
        if is_finite and outcome.is_connected:
            points += [c for c in exam.compare(moved, outcome) if c.leaf == number]
    return points


def _largest_error(comparison: Comparison) -> dict[str, str]:
    return {"largest_error": _analytic_and_numeric(comparison, int(comparison.error.argmax()))}


def _analytic_and_numeric(comparison: Comparison, place: int) -> str:
    backward, central = comparison.analytic[place].item(), comparison.numeric[place].item()
    return f"backward {backward:.6g}, central difference {central:.6g}"


def _region_of_wrong_elements(comparison: Comparison, value: Tensor) -> str:
    """Return the region of the wrong elements, if a threshold on the values or one index separates them."""
    wrong, right = comparison.is_wrong, comparison.is_usable & ~comparison.is_wrong
    if not wrong.any() or not right.any() or value.is_complex():
        return ""
    x = value.reshape(-1)[comparison.indices].cpu()
    for name, measured in (("x", x), ("|x|", x.abs())):
        if measured[wrong].min() > measured[right].max():
            return f"where {name} > {_threshold_between(measured[right].max(), measured[wrong].min())}"
        if measured[wrong].max() < measured[right].min():
            return f"where {name} < {_threshold_between(measured[wrong].max(), measured[right].min())}"
    coordinates = torch.stack(torch.unravel_index(comparison.indices, value.shape))
    for dim, along in enumerate(coordinates):
        bad = set(along[wrong].tolist())
        if not bad & set(along[right].tolist()):
            return f"at index {sorted(bad)} of dim {dim}"
    return ""


def _threshold_between(low: Tensor, high: Tensor) -> str:
    return f"{(float(low) + float(high)) / 2:.2g}"


def _index_of(index: int, shape: torch.Size) -> list[int]:
    return [int(i) for i in torch.unravel_index(torch.tensor(index), shape)]
