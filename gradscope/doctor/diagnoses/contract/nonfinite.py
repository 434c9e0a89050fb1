"""Finds NaN and infinities in outputs and gradients computed from finite inputs."""

from collections.abc import Iterator
from typing import Final

from torch import Tensor

from gradscope.doctor.examination import Examination
from gradscope.doctor.report.codes import Code
from gradscope.doctor.report.report import Finding

__all__ = [
    "FORWARD_NONFINITE",
    "GRADIENT_NONFINITE",
    "find_nonfinite_gradients",
    "find_nonfinite_outputs",
]

FORWARD_NONFINITE: Final = Code(
    "forward-nonfinite",
    "error",
    fault="NaN or infinity from finite inputs",
    found_by="running",
    explains=("gradient-nonfinite",),
)
GRADIENT_NONFINITE: Final = Code(
    "gradient-nonfinite",
    "error",
    fault="NaN or infinity in a gradient",
    found_by="running",
    explains=(
        "gradient-too-large",
        "gradient-too-small",
    ),
)


def find_nonfinite_outputs(exam: Examination) -> Iterator[Finding]:
    """Find NaN and infinities in outputs. The numerical steps are then skipped."""
    if not exam.are_inputs_finite:
        exam.skip_reason = "an input is not finite"
        exam.notes.append("an input holds NaN or infinity: the numerical steps were skipped")
        return
    for number, output in enumerate(exam.first_run.outputs):
        if not output.isfinite().all():
            exam.skip_reason = "forward is not finite"
            yield FORWARD_NONFINITE.finding(
                f"output {number} holds {_counted(output)}, from finite inputs",
                cause="an overflow, a division by zero, or a logarithm or root outside its domain",
                fix="use a numerically stable formula (subtract the maximum before exp, use log1p or "
                "expm1, clamp a denominator)",
                where=exam.location,
                evidence=(f"first at index {_first(output)}",),
            )


def find_nonfinite_gradients(exam: Examination) -> Iterator[Finding]:
    """Find NaN and infinities in gradients. The numerical steps are then skipped."""
    for leaf, gradient in zip(exam.subject.leaves, exam.first_run.gradients, strict=False):
        if exam.are_inputs_finite and gradient is not None and not gradient.isfinite().all():
            exam.skip_reason = "a gradient is not finite"
            yield GRADIENT_NONFINITE.finding(
                f"the gradient of {leaf.name} holds {_counted(gradient)}, from finite inputs",
                cause="backward divides by a number that can be zero, or multiplies 0 by infinity",
                fix="handle the singular points separately: torch.where on the argument before the "
                "division, not on its result",
                where=exam.location,
                evidence=(f"first at index {_first(gradient)} of {leaf.name}",),
            )


def _counted(tensor: Tensor) -> str:
    nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    return f"{nan} NaN and {infinite} infinite of {tensor.numel()} elements"


def _first(tensor: Tensor) -> list[int]:
    index: list[int] = (~tensor.isfinite()).nonzero()[0].tolist()
    return index
