"""PyTorch's own gradcheck and gradgradcheck, as a second opinion, with their times."""

import time
import warnings
from collections.abc import Callable, Iterator
from typing import Final

from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.gradcheck import GradcheckError

from gradscope.doctor.examination import Examination
from gradscope.doctor.report import Finding, found

__all__ = ["find_gradcheck_failures", "run_checks"]

_SLOW_BELOW: Final = 65


def run_checks(exam: Examination) -> dict[str, object]:
    """Return what gradcheck and gradgradcheck say ("passed", or the first line), and their times.

    They need double throughout and no kink at the inputs; where that is not so, they are not run.
    """
    reason = _why_not(exam)
    if reason:
        return {"gradcheck": f"not run: {reason}"}
    numbers = _timed(exam, "gradcheck", gradcheck)
    if exam.is_second_order and numbers["gradcheck"] == "passed":
        numbers |= _timed(exam, "gradgradcheck", gradgradcheck)
    return numbers


def find_gradcheck_failures(exam: Examination, numbers: dict[str, object]) -> Iterator[Finding]:
    """Find what gradcheck alone sees: such as a backward that cannot take an undefined gradient."""
    verdict = str(numbers.get("gradcheck", ""))
    if verdict == "passed" or verdict.startswith("not run"):
        return
    is_undefined = "undefined" in verdict or verdict.startswith("raises")
    yield found(
        "backward-raises" if is_undefined else "wrong-gradient",
        f"gradcheck fails: {verdict}",
        cause="backward does not handle an output whose gradient is None (set_materialize_grads(False))"
        if is_undefined
        else "torch.autograd.gradcheck disagrees on these inputs",
        fix="test each grad_output for None"
        if is_undefined
        else "run gradcheck by itself, and read its Jacobians",
        where=exam.where,
    )


def _why_not(exam: Examination) -> str:
    if not exam.precision.is_double:
        return f"it works in {exam.precision.dtype} inside"
    if any(c.kinks for c in exam.comparisons):
        return "an input lies on a kink or an edge"
    return "" if all(leaf.value.numel() for leaf in exam.wide.leaves) else "an input is empty"


def _timed(exam: Examination, name: str, check: Callable[..., bool]) -> dict[str, object]:
    subject = exam.wide
    leaves = tuple(
        leaf.value.detach().clone().requires_grad_(leaf.is_needed) for leaf in subject.leaves
    )

    def function(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(y for y in subject([t.clone() for t in tensors]) if y.requires_grad)

    size = sum(leaf.numel() for leaf in leaves) + sum(y.numel() for y in exam.wide_run.outputs)
    start = time.perf_counter()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of single precision in inputs that are no leaves
            check(function, leaves, fast_mode=size >= _SLOW_BELOW)
        verdict = "passed"
    except GradcheckError as error:
        verdict = str(error).strip().splitlines()[0].rstrip(",")
    except Exception as error:  # noqa: BLE001 - the verdict is shown, whatever it is
        verdict = f"raises {type(error).__name__}: {error}".splitlines()[0]
    return {name: verdict, f"{name}_time_s": round(time.perf_counter() - start, 4)}
