"""Finds NaN and infinities from finite inputs, gradients above 1e6, and nonzero gradients below 1e-6."""

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from gradscope.doctor.examination import Examination
from gradscope.findings import Finding, finding

__all__ = ["find_nonfinite_gradients", "find_nonfinite_outputs", "find_odd_magnitudes"]


def find_nonfinite_outputs(exam: Examination) -> Iterator[Finding]:
    """Find NaN and infinities in outputs. The numerical steps are then skipped."""
    if not exam.are_inputs_finite:
        exam.skip_reason = "an input is not finite"
        exam.notes.append("an input holds NaN or infinity: the numerical steps were skipped")
        return
    for number, output in enumerate(exam.first_run.outputs):
        if not output.isfinite().all():
            exam.skip_reason = "forward is not finite"
            yield finding(
                "forward-nonfinite",
                f"output {number} holds {_count_nonfinite(output)}, from finite inputs",
                where=exam.location,
                evidence={"first_index": str(_first_nonfinite_index(output))},
            )


def find_nonfinite_gradients(exam: Examination) -> Iterator[Finding]:
    """Find NaN and infinities in gradients. The numerical steps are then skipped."""
    for leaf, gradient in zip(exam.subject.leaves, exam.first_run.gradients, strict=False):
        if exam.are_inputs_finite and gradient is not None and not gradient.isfinite().all():
            exam.skip_reason = "a gradient is not finite"
            yield finding(
                "gradient-nonfinite",
                f"the gradient of {leaf.name} holds {_count_nonfinite(gradient)}, from finite inputs",
                where=exam.location,
                evidence={"first_index": f"{_first_nonfinite_index(gradient)} of {leaf.name}"},
            )


def _count_nonfinite(tensor: Tensor) -> str:
    nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    return f"{nan} NaN and {infinite} infinite of {tensor.numel()} elements"


def _first_nonfinite_index(tensor: Tensor) -> list[int]:
    index: list[int] = (~tensor.isfinite()).nonzero()[0].tolist()
    return index


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
            yield finding(
                "gradient-too-large",
                f"the largest element of the gradient of {leaf.name} is {largest:.2e}, over "
                f"{LARGE:.0e}",
                where=exam.location,
            )
        elif 0 < largest < SMALL and not _is_rounding_error_of_zero(exam, number, largest):
            yield finding(
                "gradient-too-small",
                f"the largest element of the gradient of {leaf.name} is {largest:.2e}, under "
                f"{SMALL:.0e}",
                where=exam.location,
            )


def _is_rounding_error_of_zero(exam: Examination, number: int, largest: float) -> bool:
    """Return whether a small gradient is a rounding error of zero: in double it is much smaller."""
    dtype = exam.subject.leaves[number].value.dtype
    wide = exam.double_run.gradients[number] if exam.double_run.failure is None else None
    others = [float(g.abs().max()) for g in exam.first_run.gradients if g is not None and g.numel()]
    is_nothing = largest < 100 * torch.finfo(dtype).eps * max(others)
    if wide is None or wide.dtype == dtype:
        return is_nothing
    return is_nothing and float(wide.abs().max()) < 0.01 * largest
