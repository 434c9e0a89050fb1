"""approximate-poor and approximate-noticeable: how far off a gradient is that is inexact by design."""

from collections.abc import Iterator
from typing import Final

from gradscope.doctor.examination import Examination
from gradscope.doctor.report import Finding, found

__all__ = ["find_poor_approximations"]

_POOR: Final = 1e-2
_NOTICEABLE: Final = 1e-3


def find_poor_approximations(exam: Examination) -> Iterator[Finding]:
    """Grade the relative error: under 1e-3 good, under 1e-2 noticeable, else poor."""
    for comparison in exam.comparisons:
        name, error = exam.subject.leaves[comparison.leaf].name, comparison.relative_error
        if error <= _NOTICEABLE:
            exam.notes.append(f"the approximate gradient of {name} is off by {error:.1e}: good")
            continue
        grade = "poor" if error > _POOR else "noticeable"
        yield found(
            f"approximate-{grade}",
            f"the approximate gradient of {name} is off by {error:.1e} of its norm: {grade}",
            cause="finite differences with too large or too small a step, or too few samples",
            fix="central differences in double with a step of 1e-6 times the input's size; more "
            "samples; or the analytical gradient",
            where=exam.where,
            evidence=(f"norm of the numerical gradient {float(comparison.numeric.norm()):.3e}",),
        )
