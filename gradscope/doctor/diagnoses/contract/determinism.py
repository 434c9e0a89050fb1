"""Finds two runs on the same inputs that differ. Unless seeds explain it, the numerical steps are skipped."""

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
    found_by="running twice with the same seed; the numerical steps are then skipped. A hint if only another seed gives other outputs",
)


def find_nondeterminism(exam: Examination) -> Iterator[Finding]:
    """Compare outputs and gradients of two runs; only outputs if the gradient is declared as approximate.

    Random numbers do not differ between runs, because the generators are seeded. A function that draws them in
    forward is examined like others; a gradient that is random by itself has no derivative to be compared with.
    """
    if exam.skip_reason:
        return
    parts = [] if exam.are_outputs_reproducible else ["the outputs"]
    if not exam.is_approximate and not exam.are_gradients_reproducible:
        parts.append("the gradients")
    if parts:
        exam.skip_reason = "two runs differ"
        yield NONDETERMINISTIC.finding(
            f"{' and '.join(parts)} of two runs on the same inputs differ, also with the same seed",
            cause="the function keeps state between calls, draws from a generator of its own, or reads "
            "uninitialised memory",
            fix="pass the state or the noise as an argument; fill tensors from torch.empty",
            where=exam.location,
        )
    elif exam.random_parts == ("the gradients",) and not exam.is_approximate:
        exam.skip_reason = "the gradient is random"
        yield NONDETERMINISTIC.finding(
            "the gradients of two runs on the same inputs differ, and the outputs do not",
            cause="backward draws random numbers",
            fix="save what forward has drawn; if the gradient is a random approximation, pass approximate=True",
            where=exam.location,
        )
    elif "the outputs" in exam.random_parts:
        yield NONDETERMINISTIC.finding(
            "the outputs depend on random numbers",
            cause="the function draws from a global generator; it was examined with the same seed in each run",
            fix="nothing, if it is intended; to repeat a result, use a generator that the caller seeds, or pass "
            "the noise as an argument",
            where=exam.location,
            severity="hint",
        )
