"""nondeterministic: two runs on the same inputs differ. A slope of noise means nothing."""

from collections.abc import Iterator
from typing import Final

from gradscope.doctor.agreement import agree
from gradscope.doctor.examination import Examination
from gradscope.doctor.report import Finding, found

__all__ = ["find_nondeterminism"]

_ROUNDINGS: Final = 100  # the order of summation, as atomics on a GPU leave it


def find_nondeterminism(exam: Examination) -> Iterator[Finding]:
    """Compare two runs; where gradients are approximate by declaration, only their outputs."""
    first, second = exam.given, exam.again
    parts = ["the outputs"] if not agree(first.outputs, second.outputs, roundings=_ROUNDINGS) else []
    is_exact = not exam.is_approximate
    if is_exact and not agree(first.gradients, second.gradients, roundings=_ROUNDINGS):
        parts.append("the gradients")
    if not parts:
        return
    exam.blocked = "two runs differ"
    yield found(
        "nondeterministic",
        f"{' and '.join(parts)} of two runs on the same inputs differ",
        cause="it draws random numbers, keeps state between calls, or reads memory that was never "
        "written",
        fix="draw from a generator that the caller seeds, or pass the noise in as an argument; "
        "torch.empty needs filling",
        where=exam.where,
    )
