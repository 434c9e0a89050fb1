"""Grades the error of a gradient that is declared as approximate.

A Monte Carlo gradient differs from run to run, so several samples of it are compared. The grade is given for the mean
error of one sample. The error of the mean of all samples is evidence: if it is much smaller, the gradient is unbiased
and noisy.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.finite_differences import Comparison
from gradscope.doctor.subject.run import run_subject
from gradscope.findings import Finding, finding

__all__ = ["find_poor_approximations"]


_POOR: Final = 1e-2
_NOTICEABLE: Final = 1e-3
_DRAWS: Final = 8


def find_poor_approximations(exam: Examination) -> Iterator[Finding]:
    """Grade the relative error: below 1e-3 good, below 1e-2 noticeable, otherwise poor."""
    if not exam.is_approximate:
        return
    for comparison in exam.comparisons:
        name = exam.subject.leaves[comparison.leaf].name
        draws = _sampled_gradients(exam, comparison)
        errors = torch.stack([_relative_error(comparison, draw) for draw in draws])
        error, spread = float(errors.mean()), _describe_spread(comparison, draws, errors)
        if error <= _NOTICEABLE:
            exam.notes.append(
                f"the approximate gradient of {name} is off by {error:.1e}: good ({spread})"
            )
            continue
        code, grade = (
            ("approximate-poor", "poor") if error > _POOR else ("approximate-noticeable", "noticeable")
        )
        yield finding(
            code,
            f"the approximate gradient of {name} is off by {error:.1e} of its norm: {grade}",
            cause="finite differences with too large or too small a step, or too few samples",
            fix="use central differences in double with a step of 1e-6 times the input's size, more "
            "samples, or the analytical gradient",
            where=exam.location,
            evidence={
                "relative_error": error,
                "spread": spread,
                "norm_of_numerical_gradient": float(comparison.numeric.norm()),
            },
        )


def _sampled_gradients(exam: Examination, comparison: Comparison) -> list[Tensor]:
    """Return backward's gradient at the compared elements: several samples if the gradient is random."""
    draws = [comparison.analytic]
    if not exam.random_parts:
        return draws
    for seed in range(1, _DRAWS):
        gradient = run_subject(replace(exam.in_double, seed=seed)).gradients[comparison.leaf]
        if gradient is not None:
            draws.append(gradient.detach().reshape(-1)[comparison.indices].cpu())
    return draws


def _relative_error(comparison: Comparison, gradient: Tensor) -> Tensor:
    """Return the norm of the error divided by the norm of the numerical gradient; not divided if that norm is 0."""
    use = comparison.is_usable
    error = (gradient[use] - comparison.numeric[use]).norm()
    size = comparison.numeric[use].norm()
    return torch.where(size > 0, error / size, error)


def _describe_spread(comparison: Comparison, draws: list[Tensor], errors: Tensor) -> str:
    if len(draws) == 1:
        return "the same in every run"
    bias = float(_relative_error(comparison, torch.stack(draws).mean(0)))
    return (
        f"{len(draws)} draws, from {float(errors.min()):.1e} to {float(errors.max()):.1e}; "
        f"their mean is off by {bias:.1e}"
    )
