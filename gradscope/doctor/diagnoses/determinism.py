"""nondeterministic: two runs on the same inputs differ. A slope of noise means nothing."""

from collections.abc import Iterator

from gradscope.doctor.examination import Examination
from gradscope.doctor.report.report import Finding, found

__all__ = ["find_nondeterminism"]


def find_nondeterminism(exam: Examination) -> Iterator[Finding]:
    """Compare two runs; where gradients are approximate by declaration, only their outputs."""
    parts = [] if exam.are_outputs_repeatable else ["the outputs"]
    if not exam.is_approximate and not exam.are_gradients_repeatable:
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
