"""Tests other batch sizes: a batch with one row, and an empty batch."""

from collections.abc import Iterator
from typing import Final

from gradscope.doctor.diagnoses.contract.failures import failure_finding, named
from gradscope.doctor.diagnoses.gradients.wrong_gradient import plain_wrong_gradient
from gradscope.doctor.examination import Examination
from gradscope.doctor.report.codes import LAYOUT, Code
from gradscope.doctor.report.report import Finding
from gradscope.doctor.subject.batches import with_first_rows
from gradscope.doctor.subject.run import Failure, run_subject

__all__ = ["FAILS_ON_EMPTY", "find_batch_failures"]

FAILS_ON_EMPTY: Final = Code(
    "fails-on-empty",
    "warning",
    fault="an empty batch raises, or a batch of one row loses its dim",
    found_by="running on one row and on none, if a batch dim can be found",
    group=LAYOUT,
)


def find_batch_failures(exam: Examination) -> Iterator[Finding]:
    """Run on one row of the batch and on no rows, if there is a batch dim."""
    one, none = with_first_rows(exam.in_double, 1), with_first_rows(exam.in_double, 0)
    if one is None or none is None:
        exam.notes.append("no batch dim was found: a batch of 1 and an empty batch were not tried")
        return
    outcome = run_subject(one)
    if outcome.failure is not None:
        yield failure_finding(outcome.failure, exam.location, on="a batch of 1")
    elif not exam.is_approximate and exam.is_gradient_right:
        for comparison in exam.compare(one, outcome):
            if not comparison.is_right:
                yield plain_wrong_gradient(one, comparison, exam.location, on="a batch of 1")
    expected = [(1, *y.shape[1:]) for y in exam.double_run.outputs]
    if outcome.failure is None and [y.shape for y in outcome.outputs] != expected:
        yield FAILS_ON_EMPTY.finding(
            f"a batch of 1: forward returns shapes {[tuple(y.shape) for y in outcome.outputs]}, not {expected}",
            cause="forward drops the batch dim if the batch has one row: squeeze() without a dim does so",
            fix="name the dim: squeeze(-1)",
            where=exam.location,
        )
    empty = run_subject(none)
    if empty.failure is not None and not _fails_in_torch_too(empty.failure):
        yield FAILS_ON_EMPTY.finding(
            f"an empty batch: {str(empty.failure).splitlines()[0]}",
            cause="a reduction without an identity (max, argmin) or a -1 in a shape fails on no elements",
            fix="pass the full shape, or return early if x.numel() is 0; a batch can be empty behind a "
            "filter or a router",
            where=empty.failure.where or exam.location,
            evidence=named(empty.failure.text),
        )


def _fails_in_torch_too(failure: Failure) -> bool:
    """Return whether forward calls a PyTorch operation that does not accept an empty batch, such as an FFT.

    A shape with -1 that fails is a fault of the function itself.
    """
    is_from_torch = failure.phase == "forward" and failure.text.startswith("RuntimeError")
    return is_from_torch and "reshape tensor of 0 elements" not in failure.text
