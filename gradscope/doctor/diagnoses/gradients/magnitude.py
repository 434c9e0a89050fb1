"""Finds gradients above 1e6, and nonzero gradients below 1e-6."""

from collections.abc import Iterator
from typing import Final

import torch

from gradscope.doctor.examination import Examination
from gradscope.doctor.report.codes import Code
from gradscope.doctor.report.report import Finding

__all__ = ["GRADIENT_TOO_LARGE", "GRADIENT_TOO_SMALL", "LARGE", "SMALL", "find_odd_magnitudes"]

GRADIENT_TOO_LARGE: Final = Code(
    "gradient-too-large",
    "warning",
    fault="a gradient over 1e6",
    found_by="its largest element",
)
GRADIENT_TOO_SMALL: Final = Code(
    "gradient-too-small",
    "warning",
    fault="a gradient under 1e-6 and not 0",
    found_by="its largest element; rounding errors of a zero are left out",
)

LARGE: Final = 1e6
SMALL: Final = 1e-6


def find_odd_magnitudes(exam: Examination) -> Iterator[Finding]:
    """Check the largest absolute element of each gradient, for a grad_output of about 1."""
    pairs = zip(exam.subject.leaves, exam.first_run.gradients, strict=False)
    for number, (leaf, gradient) in enumerate(pairs):
        if gradient is None or gradient.numel() == 0:
            continue
        largest = float(gradient.abs().max())
        if largest > LARGE:
            yield GRADIENT_TOO_LARGE.finding(
                f"the largest element of the gradient of {leaf.name} is {largest:.2e}, over "
                f"{LARGE:.0e}",
                cause="the function is very steep at these inputs, or a division is missing in backward",
                fix="scale the inputs, or compute logarithms; the next steps compare the formula with finite "
                "differences",
                where=exam.location,
            )
        elif 0 < largest < SMALL and not _is_rounding(exam, number, largest):
            yield GRADIENT_TOO_SMALL.finding(
                f"the largest element of the gradient of {leaf.name} is {largest:.2e}, under "
                f"{SMALL:.0e}",
                cause="the function is saturated at these inputs, or backward has one division too many",
                fix="examine it at inputs with a larger slope; the next steps compare the formula with finite "
                "differences",
                where=exam.location,
            )


def _is_rounding(exam: Examination, number: int, largest: float) -> bool:
    """Return whether a small gradient is a rounding error of zero: in double it is much smaller."""
    dtype = exam.subject.leaves[number].value.dtype
    wide = exam.double_run.gradients[number] if exam.double_run.failure is None else None
    others = [float(g.abs().max()) for g in exam.first_run.gradients if g is not None and g.numel()]
    is_nothing = largest < 100 * torch.finfo(dtype).eps * max(others)
    if wide is None or wide.dtype == dtype:
        return is_nothing
    return is_nothing and float(wide.abs().max()) < 0.01 * largest
