"""forward-nonfinite and gradient-nonfinite: NaN or infinity from finite inputs."""

from collections.abc import Iterator

from torch import Tensor

from gradscope.doctor.examination import Examination
from gradscope.doctor.report.report import Finding, found

__all__ = ["find_nonfinite_gradients", "find_nonfinite_outputs"]


def find_nonfinite_outputs(exam: Examination) -> Iterator[Finding]:
    """Find NaN and infinity in what forward returns."""
    if not exam.is_given_finite:
        exam.blocked = "an input is not finite"
        exam.notes.append("an input holds NaN or infinity: no statement is made about numbers")
        return
    for number, output in enumerate(exam.given.outputs):
        if not output.isfinite().all():
            exam.blocked = "forward is not finite"
            yield found(
                "forward-nonfinite",
                f"output {number} holds {_counted(output)}, from finite inputs",
                cause="an overflow, a division by zero, or a logarithm or root outside of its domain",
                fix="rewrite the formula in a stable form (subtract the maximum before exp, use log1p, "
                "expm1, clamp a denominator)",
                where=exam.where,
                evidence=(f"first at index {_first(output)}",),
            )


def find_nonfinite_gradients(exam: Examination) -> Iterator[Finding]:
    """Find NaN and infinity in gradients."""
    for leaf, gradient in zip(exam.subject.leaves, exam.given.gradients, strict=False):
        if exam.is_given_finite and gradient is not None and not gradient.isfinite().all():
            exam.blocked = "a gradient is not finite"
            yield found(
                "gradient-nonfinite",
                f"the gradient of {leaf.name} holds {_counted(gradient)}, from finite inputs",
                cause="backward divides by something that can be zero, or multiplies 0 by infinity",
                fix="treat the singular points by themselves: torch.where on the argument before the "
                "division, not on its result",
                where=exam.where,
                evidence=(f"first at index {_first(gradient)} of {leaf.name}",),
            )


def _counted(tensor: Tensor) -> str:
    nan, infinite = int(tensor.isnan().sum()), int(tensor.isinf().sum())
    return f"{nan} NaN and {infinite} infinite of {tensor.numel()} elements"


def _first(tensor: Tensor) -> list[int]:
    index: list[int] = (~tensor.isfinite()).nonzero()[0].tolist()
    return index
