"""Tests other memory layouts of the same values: non-contiguous inputs and gradients, and gradients of stride 0."""

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from gradscope.doctor.diagnoses.contract.failures import named
from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.agreement import agree
from gradscope.doctor.report.codes import LAYOUT, Code
from gradscope.doctor.report.report import Finding
from gradscope.doctor.subject.run import ForwardBackwardRun, run_subject, weights_like

__all__ = ["FAILS_ON_EXPANDED_GRADIENT", "FAILS_ON_NONCONTIGUOUS", "find_layout_failures"]

FAILS_ON_NONCONTIGUOUS: Final = Code(
    "fails-on-noncontiguous",
    "error",
    fault="other results with non-contiguous tensors",
    found_by="transposed inputs and gradients",
    group=LAYOUT,
)
FAILS_ON_EXPANDED_GRADIENT: Final = Code(
    "fails-on-expanded-gradient",
    "error",
    fault="other results with a gradient of stride 0",
    found_by="the gradient of `sum().backward()`",
    group=LAYOUT,
)

_ROUNDINGS: Final = 1e3  # another layout may change the order of summation


def find_layout_failures(exam: Examination) -> Iterator[Finding]:
    """Run with strided inputs, a strided gradient and an expanded one, and compare with dense tensors."""
    if not exam.are_gradients_reproducible or exam.random_parts:
        return  # random numbers are drawn in the order of the memory
    if any(call.dirty_inputs for call in exam.first_run.calls):
        return  # an input marked as dirty cannot be a view
    yield from _noncontiguous(exam)
    yield from _expanded(exam)


def _noncontiguous(exam: Examination) -> Iterator[Finding]:
    variations = [("gradients", run_subject(exam.subject, weigh=lambda y: _strided(weights_like(y))))]
    if not exam.first_run.has_sparse_gradients:  # autograd cannot transpose a sparse gradient
        variations.insert(0, ("inputs", run_subject(exam.subject, prepare=_strided)))
    for what, outcome in variations:
        difference = _difference(exam.first_run, outcome)
        if difference:
            yield FAILS_ON_NONCONTIGUOUS.finding(
                f"non-contiguous {what}: {difference}",
                cause="the function assumes a contiguous layout: .view on a strided tensor, or a raw pointer",
                fix="use .reshape, or call .contiguous() on the arguments first",
                where=outcome.failure.where if outcome.failure else exam.location,
                evidence=named(difference),
            )


def _expanded(exam: Examination) -> Iterator[Finding]:
    outcome = run_subject(exam.subject, weigh=_stride_zero)
    difference = _difference(run_subject(exam.subject, weigh=torch.ones_like), outcome)
    if difference:
        yield FAILS_ON_EXPANDED_GRADIENT.finding(
            f"a gradient of stride 0, as from sum().backward(): {difference}",
            cause="backward writes to grad_output, or reads its memory as if it were dense",
            fix="call grad_output.contiguous() first, or use out-of-place operations",
            where=outcome.failure.where if outcome.failure else exam.location,
            evidence=named(difference),
        )


def _strided(tensor: Tensor) -> Tensor:
    """Return the same values transposed in memory; with a stride of 2 if there is one dim."""
    if tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    return torch.stack([tensor, tensor.detach()], dim=-1)[..., 0]


def _stride_zero(output: Tensor) -> Tensor:
    return torch.ones((), dtype=output.dtype, device=output.device).expand(output.shape)


def _difference(expected: ForwardBackwardRun, got: ForwardBackwardRun) -> str:
    if got.failure is not None:
        return str(got.failure).splitlines()[0]
    if not agree(expected.outputs, got.outputs, roundings=_ROUNDINGS):
        return "the outputs differ from those of dense tensors"
    if not agree(expected.gradients, got.gradients, roundings=_ROUNDINGS):
        return "the gradients differ from those of dense tensors"
    return ""
