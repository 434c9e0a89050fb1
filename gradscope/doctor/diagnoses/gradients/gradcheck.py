"""Runs PyTorch's own gradcheck and gradgradcheck as an independent check."""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd import Function, gradcheck, gradgradcheck
from torch.autograd.gradcheck import GradcheckError

from gradscope.doctor.diagnoses.contract.failures import named
from gradscope.doctor.examination import Examination
from gradscope.doctor.subject.run import run_backward, run_forward
from gradscope.findings import Finding, finding

__all__ = ["find_gradcheck_failures"]

_UNDEFINED_GRADIENT: Final = (
    "backward does not handle an output whose gradient is None (set_materialize_grads(False))",
    "test each grad_output for None",
)
_OTHER_EXCEPTION: Final = (
    "gradcheck calls the function many times, with inputs that are moved slightly; one of the calls raises",
    "run torch.autograd.gradcheck alone, which shows the line",
)
_OTHER_DERIVATIVE: Final = (
    "torch.autograd.gradcheck finds another derivative at these inputs",
    "run gradcheck alone, and compare its Jacobians",
)
_SLOW_BELOW: Final = 65
_FAST_CALLS: Final = 64
"""Maximum number of calls for each input in gradcheck's fast mode, which needs only a few."""


class _SlowModeError(Exception):
    """Raised if gradcheck's fast mode fails and continues element by element to write its message."""


def find_gradcheck_failures(exam: Examination) -> Iterator[Finding]:
    """Run gradcheck and gradgradcheck, and find faults that only these detect.

    An example is a backward that does not accept an undefined gradient. The results are stored in
    `exam.gradcheck_results`.
    """
    if exam.is_approximate:
        return
    exam.gradcheck_results = results = _run_checks(exam)
    verdict = str(results["gradcheck"])
    if verdict.startswith(("passed", "not run")):
        yield from _forward_mode_failures(exam, str(results.get("gradcheck in forward mode", "passed")))
        return
    code, cause, fix = "wrong-gradient", *_OTHER_DERIVATIVE
    if _raises_on_undefined_gradients(exam):
        code, cause, fix = "backward-raises", *_UNDEFINED_GRADIENT
    elif verdict.startswith("raises") or "undefined" in verdict:
        code, cause, fix = "backward-raises", *_OTHER_EXCEPTION
    yield finding(
        code,
        f"gradcheck fails: {verdict}",
        cause=cause,
        fix=fix,
        where=exam.location,
        evidence=named(verdict),
    )


def _raises_on_undefined_gradients(exam: Examination) -> bool:
    run = run_forward(exam.in_double)
    undefined: Any = torch._C._functions.UndefinedGrad()  # noqa: SLF001 - as gradcheck does it
    outputs = tuple(undefined(y) if y.requires_grad else y for y in run.outputs)
    return run_backward(replace(run, outputs=outputs)).failure is not None


def _forward_mode_failures(exam: Examination, verdict: str) -> Iterator[Finding]:
    if verdict.startswith("passed"):
        return
    yield finding(
        "wrong-gradient",
        f"jvp fails gradcheck in forward mode: {verdict}",
        cause="jvp does not compute the derivative of forward, or raises an exception; backward is right",
        fix="derive jvp again: it is the Jacobian times the tangents, and backward its transpose times grad_output",
        where=exam.location,
    )


def _run_checks(exam: Examination) -> dict[str, object]:
    """Return the results of gradcheck and gradgradcheck ("passed" or the first line of the error), and their times.

    They are skipped unless the function computes in double and has no kink at the inputs. gradgradcheck is also skipped
    if a finding says that the second derivative raises or is wrong.
    """
    reason = _why_not(exam)
    if reason:
        return {"gradcheck": f"not run: {reason}"}
    results = _run_timed_check(exam, "gradcheck", gradcheck)
    if exam.is_second_order and str(results["gradcheck"]).startswith("passed"):
        if exam.has_found("graph-broken", "not-twice-differentiable", "wrong-second-gradient"):
            return results | {"gradgradcheck": "not run: a finding says why it would fail"}
        results |= _run_timed_check(exam, "gradgradcheck", gradgradcheck)
    if any(function.jvp is not Function.jvp for function in exam.subject.functions):
        results |= _run_timed_check(exam, "gradcheck in forward mode", _forward_mode)
    return results


def _forward_mode(*arguments: object, **options: bool) -> bool:
    return gradcheck(*arguments, **options, check_forward_ad=True, check_backward_ad=False)  # type: ignore[arg-type]  # gradcheck's own arguments


def _why_not(exam: Examination) -> str:
    if not exam.is_gradient_right:
        return "the gradient is not the derivative"
    if exam.first_run.has_sparse_gradients:
        return "a gradient is sparse"
    if not exam.is_backward_repeatable:
        return "backward runs only once"
    if not exam.precision.is_double:
        return f"it computes in {exam.precision.dtype}"
    if any(c.kinks for c in exam.comparisons):
        return "an input lies on a kink or an edge"
    return "" if all(leaf.value.numel() for leaf in exam.in_double.leaves) else "an input is empty"


def _run_timed_check(exam: Examination, name: str, check: Callable[..., bool]) -> dict[str, object]:
    subject = exam.in_double
    leaves = tuple(
        leaf.value.detach().clone().requires_grad_(leaf.is_needed) for leaf in subject.leaves
    )
    size = sum(leaf.numel() for leaf in leaves) + sum(y.numel() for y in exam.double_run.outputs)
    is_fast = size >= _SLOW_BELOW
    called = _LimitedCalls(exam, limit=_FAST_CALLS * (1 + len(leaves)) if is_fast else None)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # gradcheck warns about single precision in other arguments
            check(called, leaves, fast_mode=is_fast)
        verdict = "passed" + (" (fast mode: random projections)" if is_fast else "")
    except GradcheckError as error:
        verdict = str(error).strip().splitlines()[0].rstrip(",")
    except _SlowModeError:
        verdict = "Jacobian mismatch along a random projection"
    except Exception as error:  # noqa: BLE001 - any exception is the result
        verdict = f"raises {type(error).__name__}: {error}".splitlines()[0]
    return {name: verdict, f"{name}_time_s".replace(" ", "_"): round(time.perf_counter() - start, 4)}


class _LimitedCalls:
    """The function passed to gradcheck. It raises _SlowModeError after `limit` calls."""

    def __init__(self, exam: Examination, limit: int | None) -> None:
        self._subject = exam.in_double
        self._is_chosen = [y.requires_grad for y in exam.double_run.outputs]
        self._left = limit

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Run the function and return its outputs that require a gradient."""
        if self._left is not None:
            if self._left == 0:
                raise _SlowModeError
            self._left -= 1
        outputs = self._subject([t.clone() for t in tensors])
        return tuple(y for y, chosen in zip(outputs, self._is_chosen, strict=True) if chosen)
