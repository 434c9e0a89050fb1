"""Tests whether a gradient is the derivative with rounding replaced by the identity, as in quantisers.

Forward runs as plain PyTorch code under autograd, with round, floor, ceil, trunc and sign passing gradients straight
through. This detects the gradient of a learned step size (LSQ), which the other tests do not.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.finite_differences import Comparison

__all__ = ["is_straight_through_inside"]

_STEPS: Final = frozenset({"round", "floor", "ceil", "trunc", "sign"})


def is_straight_through_inside(exam: Examination, comparison: Comparison) -> str:
    """Return the reason if a leaf's gradient is the derivative with rounding as the identity; else ""."""
    expected = _gradients(exam)
    gradient = expected[comparison.leaf] if expected else None
    if gradient is None:
        return ""
    there = gradient.reshape(-1)[comparison.indices].cpu()
    is_same = torch.allclose(comparison.analytic, there, rtol=1e-3, atol=1e-5)
    return "it is the derivative with rounding replaced by the identity" if is_same else ""


def _gradients(exam: Examination) -> Sequence[Tensor | None]:
    subject = exam.in_double
    if not subject.is_direct or len(subject.functions) != 1:
        return ()
    leaves = [leaf.value.clone().requires_grad_(leaf.is_needed) for leaf in subject.leaves]
    arguments = list(subject.arguments)
    for leaf, value in zip(subject.leaves, leaves, strict=True):
        arguments[leaf.position] = value
    mode = _StraightThrough()
    try:
        with mode:
            result = _forward(exam, arguments)
        outputs = result if isinstance(result, tuple) else (result,)
        ends = [y for y in outputs if isinstance(y, Tensor) and y.requires_grad]
        asked = [leaf for leaf in leaves if leaf.requires_grad]
        if not mode.has_passed or len(ends) != len(exam.double_run.weights):
            return ()
        found = iter(torch.autograd.grad(ends, asked, exam.double_run.weights, allow_unused=True))
    except Exception:  # noqa: BLE001 - autograd cannot record this forward
        return ()
    return [next(found) if leaf.requires_grad else None for leaf in leaves]


def _forward(exam: Examination, arguments: Sequence[object]) -> object:
    function = exam.in_double.functions[0]
    forward: Any = function.forward  # Any: the user's method may have any signature
    is_with_ctx = function.setup_context is torch.autograd.Function.setup_context
    return forward(*([_AnyContext()] if is_with_ctx else []), *arguments)


class _AnyContext:
    """A ctx whose methods do nothing."""

    needs_input_grad = (True,) * 64

    def __getattr__(self, name: str) -> Any:  # Any: a method of ctx
        return lambda *_: None


class _StraightThrough(TorchFunctionMode):
    """Passes gradients through operations whose derivative is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.has_passed = False

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # Any: torch's protocol
        result = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") in _STEPS and result.is_floating_point():
            self.has_passed = True
            return args[0] + (result - args[0]).detach()
        return result
