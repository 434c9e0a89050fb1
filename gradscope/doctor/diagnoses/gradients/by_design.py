"""Recognises gradients that differ from the derivative and look intended: a reversal, clipping, straight-through."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.finite_differences import Comparison
from gradscope.doctor.subject.instrument import is_same
from gradscope.doctor.subject.op_counter import ResultMode
from gradscope.doctor.subject.run import run_subject, weights_like
from gradscope.findings import Finding, finding

__all__ = ["explain_by_design", "is_identity"]

_SMALL_GRADIENT: Final = 1e-3


def explain_by_design(exam: Examination, comparison: Comparison) -> Finding | None:
    """Return a hint if the difference matches a known intention; None if not."""
    leaf = exam.in_double.leaves[comparison.leaf]
    for test in _TESTS:
        reason = test(exam, comparison)
        if reason:
            return finding(
                "gradient-by-design",
                f"the gradient of {leaf.name} is not the derivative, and looks intended: {reason}",
                where=exam.location,
                evidence={"ratio": _describe_ratio(comparison)},
            )
    return None


def is_identity(exam: Examination, comparison: Comparison) -> str:
    """Return the reason if forward returns the leaf unchanged; else ""."""
    x = exam.in_double.leaves[comparison.leaf].value
    values = exam.values_of(exam.in_double, exam.double_run)
    others = [leaf.value for leaf in exam.in_double.leaves]
    for moved in (x, x * 1.37 + 0.11):
        others[comparison.leaf] = moved
        if not any(is_same(y, moved) for y in values(others)):
            return ""
    return "forward is the identity"


def _is_staircase(exam: Examination, comparison: Comparison) -> str:
    """Return the reason if forward is piecewise constant: derivative 0 at these inputs, but not constant; else ""."""
    use = comparison.is_usable
    if not use.any() or bool((comparison.numeric[use].abs() > comparison.tolerance[use]).any()):
        return ""
    values = exam.values_of(exam.in_double, exam.double_run)
    here = [leaf.value for leaf in exam.in_double.leaves]
    before = values(here)
    far = list(here)
    far[comparison.leaf] = -3.0 * here[comparison.leaf] + 1.7
    there = values(far)
    far[comparison.leaf] = far[comparison.leaf] * (1 + 1e-9)
    is_changed = any(not is_same(a, b) for a, b in zip(before, there, strict=True))
    is_flat_there = all(is_same(a, b) for a, b in zip(there, values(far), strict=True))
    return "forward is piecewise constant" if is_changed and is_flat_there else ""


def _reason_if_limited(exam: Examination, comparison: Comparison) -> str:
    """Return the reason if backward is the derivative for small gradients, but clips or clamps large ones; else ""."""
    again = _with_small_gradients(exam, comparison)
    if again is None:
        return ""
    size = float(again.numeric.abs().max()) if len(again.numeric) else 0.0
    close = (again.error <= 1e-3 * again.numeric.abs() + 1e-4 * size).all()
    return (
        "backward limits large gradients and does not change small ones" if bool(close) and size else ""
    )


def _reason_if_rescaled(exam: Examination, comparison: Comparison) -> str:
    """Return the reason if backward has the derivative's direction and a norm independent of grad_output; else ""."""
    again = _with_small_gradients(exam, comparison)
    if again is None:
        return ""
    large, small = _positive_factor(comparison), _positive_factor(again)
    is_rescaled = large is not None and small is not None and not 0.9 < large / small < 1.1
    return "backward keeps the direction and sets the norm" if is_rescaled else ""


def _with_small_gradients(exam: Examination, comparison: Comparison) -> Comparison | None:
    small = run_subject(exam.in_double, weigh=_small_weights)
    if small.failure is not None:
        return None
    return exam.compare_leaf(exam.in_double, small, comparison.leaf, comparison.indices)


def _positive_factor(comparison: Comparison) -> float | None:
    """Return the positive factor between backward and the derivative; None if it is not one constant."""
    numeric, analytic = comparison.numeric, comparison.analytic
    if numeric.is_complex() or len(numeric) < 3 or not float(numeric.norm()) > 0:
        return None
    factor = float((numeric * analytic).sum() / (numeric * numeric).sum())
    is_constant = torch.allclose(
        analytic, factor * numeric, rtol=1e-3, atol=1e-3 * float(analytic.norm())
    )
    return factor if is_constant and factor > 0 else None


def _small_weights(output: Tensor) -> Tensor:
    return weights_like(output) * _SMALL_GRADIENT


def _describe_ratio(comparison: Comparison) -> str:
    use = comparison.is_usable & (comparison.numeric.abs() > comparison.tolerance)
    if not use.any():
        return "the derivative is 0 at all compared elements"
    ratios = comparison.analytic[use] / comparison.numeric[use]
    if torch.allclose(ratios, ratios[0], rtol=1e-4):
        return f"the gradient is {ratios[0].item():g} times the derivative"
    return "no single factor explains it"


_STEPS: Final = frozenset({"round", "floor", "ceil", "trunc", "sign"})
"""Operations whose derivative is 0, through which a straight-through estimator passes gradients."""


def _is_straight_through_inside(exam: Examination, comparison: Comparison) -> str:
    """Return the reason if a leaf's gradient is the derivative with rounding as the identity; else ""."""
    expected = _straight_through_gradients(exam)
    gradient = expected[comparison.leaf] if expected else None
    if gradient is None:
        return ""
    there = gradient.reshape(-1)[comparison.indices].cpu()
    is_same = torch.allclose(comparison.analytic, there, rtol=1e-3, atol=1e-5)
    return "it is the derivative with rounding replaced by the identity" if is_same else ""


def _straight_through_gradients(exam: Examination) -> Sequence[Tensor | None]:
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
            result = _run_forward(exam, arguments)
        outputs = result if isinstance(result, tuple) else (result,)
        ends = [y for y in outputs if isinstance(y, Tensor) and y.requires_grad]
        asked = [leaf for leaf in leaves if leaf.requires_grad]
        if not mode.has_passed or len(ends) != len(exam.double_run.weights):
            return ()
        found = iter(torch.autograd.grad(ends, asked, exam.double_run.weights, allow_unused=True))
    except Exception:  # noqa: BLE001 - autograd cannot record this forward
        return ()
    return [next(found) if leaf.requires_grad else None for leaf in leaves]


def _run_forward(exam: Examination, arguments: Sequence[object]) -> object:
    function = exam.in_double.functions[0]
    forward: Any = function.forward  # Any: the user's method may have any signature
    is_with_ctx = function.setup_context is torch.autograd.Function.setup_context
    return forward(*([_AnyContext()] if is_with_ctx else []), *arguments)


class _AnyContext:
    """A ctx whose methods do nothing."""

    needs_input_grad = (True,) * 64

    def __getattr__(self, name: str) -> Any:  # Any: a method of ctx
        return lambda *_: None


class _StraightThrough(ResultMode):
    """Passes gradients through operations whose derivative is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.has_passed = False

    def change(self, name: str, args: tuple[Any, ...], result: Any) -> Any:  # Any: torch's protocol
        if name in _STEPS and result.is_floating_point():
            self.has_passed = True
            return args[0] + (result - args[0]).detach()
        return result


_TESTS: Final = (
    is_identity,
    _is_staircase,
    _reason_if_limited,
    _reason_if_rescaled,
    _is_straight_through_inside,
)
