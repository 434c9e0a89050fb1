"""The dtype in which a function computes, and the resulting step size and tolerances of finite differences.

Central differences with step h have an error of about ``h² f'''`` plus a rounding error of ``eps |y| /
h``. In double, h is 1e-6. If a function casts to single precision inside (`.float()`), h is the cube
root of that dtype's eps instead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils import _pytree

from gradscope.doctor.subject.op_counter import OperationObserver
from gradscope.doctor.subject.run import run_subject
from gradscope.doctor.subject.subject import Subject

__all__ = ["Precision", "precision_of"]

_STEP_IN_DOUBLE: Final = 1e-6


@dataclass(frozen=True, slots=True)
class Precision:
    """The dtype in which a function computes, the step size of finite differences, and the tolerances."""

    dtype: torch.dtype
    step: float
    rtol: float
    atol: float

    @property
    def eps(self) -> float:
        """The machine epsilon of the dtype."""
        return torch.finfo(self.dtype).eps

    @property
    def is_double(self) -> bool:
        """Whether the function computes in double."""
        return self.dtype == torch.float64


def precision_of(subject: Subject) -> Precision:
    """Return the precision of a subject: the narrowest dtype among its leaves and its internal casts."""
    # Values converted from float32 would look like a cast to float32, so all values are changed slightly.
    moved = subject.with_values([leaf.value * (1 + 1e-10) for leaf in subject.leaves])
    with _Casts() as casts:
        outcome = run_subject(moved)
    widths = [_real_dtype(leaf.value.dtype) for leaf in subject.leaves] + casts.narrowed
    dtype = max(widths, key=lambda d: torch.finfo(d).eps)
    if (
        dtype == torch.float64
        and outcome.outputs
        and all(_is_exact_in_float32(y.detach()) for y in outcome.outputs)
    ):
        dtype = torch.float32  # compiled code, whose casts the dispatcher does not see
    if dtype == torch.float64:
        return Precision(dtype, _STEP_IN_DOUBLE, rtol=1e-3, atol=1e-5)
    step = torch.finfo(dtype).eps ** (1 / 3)
    tolerance = max(1e-3, 8 * step**2)
    return Precision(dtype, step, rtol=tolerance, atol=tolerance)


class _Casts(OperationObserver):  # type: ignore[no-untyped-call]  # torch's class is untyped
    """Records casts of floating-point tensors to a narrower dtype."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's class is untyped
        self.narrowed: list[torch.dtype] = []

    def observe(self, func: Any, args: Sequence[Any], result: Any) -> None:  # Any: torch's protocol
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):  # noqa: SLF001 - its name
            source = args[1] if func is torch.ops.aten.copy_.default else args[0]
            for made in _pytree.tree_leaves(result):
                if _is_narrower(made, source):
                    self.narrowed.append(_real_dtype(made.dtype))


def _is_narrower(made: object, source: object) -> bool:
    if not (isinstance(made, Tensor) and isinstance(source, Tensor)):
        return False
    if not (
        (made.is_floating_point() or made.is_complex())
        and (source.is_floating_point() or source.is_complex())
    ):
        return False
    return torch.finfo(made.dtype).eps > torch.finfo(source.dtype).eps


def _is_exact_in_float32(y: Tensor) -> bool:
    """Return whether all values are exact in float32, and not all exact in bfloat16 (as small integers are)."""
    if y.dtype != torch.float64 or y.numel() == 0:
        return False
    return torch.equal(y.float().double(), y) and not torch.equal(y.bfloat16().double(), y)


def _real_dtype(dtype: torch.dtype) -> torch.dtype:
    return {
        torch.complex128: torch.float64,
        torch.complex64: torch.float32,
        torch.complex32: torch.float16,
    }.get(dtype, dtype)
