"""nondeterministic: two runs on the same inputs differ. A slope of noise means nothing."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from gradscope.doctor.examination import Examination
from gradscope.doctor.report import Finding, found

__all__ = ["find_nondeterminism"]


def find_nondeterminism(exam: Examination) -> Iterator[Finding]:
    """Compare two runs; where gradients are approximate by declaration, only their outputs."""
    first, second = exam.given, exam.again
    parts = ["the outputs"] if _differ(first.outputs, second.outputs) else []
    if _differ(first.gradients, second.gradients) and not exam.is_approximate:
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


def _differ(a: Sequence[Tensor | None], b: Sequence[Tensor | None]) -> bool:
    if len(a) != len(b):
        return True
    return any(
        x is not None and (y is None or not _is_close(x.detach(), y.detach()))
        for x, y in zip(a, b, strict=True)
    )


def _is_close(x: Tensor, y: Tensor) -> bool:
    """Return whether two tensors agree but for the order of summation, as atomics on a GPU leave it."""
    rtol = 100 * torch.finfo(x.dtype).eps
    scale = float(x.abs().nan_to_num(0, 0, 0).max()) if x.numel() else 0.0
    return x.shape == y.shape and torch.allclose(x, y, rtol=rtol, atol=rtol * scale, equal_nan=True)
