"""Finds two runs on the same inputs that differ. Numerical steps are then skipped: noise has no derivative."""

from collections.abc import Iterator
from typing import Final

from gradscope.doctor.examination import Examination
from gradscope.doctor.report.codes import Code
from gradscope.doctor.report.report import Finding

__all__ = ["NONDETERMINISTIC", "find_nondeterminism"]

NONDETERMINISTIC: Final = Code(
    "nondeterministic",
    "warning",
    fault="two runs differ",
    found_by="running twice; the numerical steps are skipped",
)


def find_nondeterminism(exam: Examination) -> Iterator[Finding]:
    """Compare outputs and gradients of two runs; only outputs if the gradient is declared as approximate."""
    if exam.skip_reason:
        return
    parts = [] if exam.are_outputs_reproducible else ["the outputs"]
    if not exam.is_approximate and not exam.are_gradients_reproducible:
        parts.append("the gradients")
    if not parts:
        return
    exam.skip_reason = "two runs differ"
    yield NONDETERMINISTIC.finding(
        f"{' and '.join(parts)} of two runs on the same inputs differ",
        cause="the function draws random numbers, keeps state between calls, or reads uninitialised "
        "memory",
        fix="use a generator that the caller seeds, or pass the noise as an argument; fill tensors "
        "from torch.empty",
        where=exam.location,
    )
