"""Finds second derivatives that raise, are wrong, or are cut off from the graph.

The map from inputs and grad_output to gradients is compared with finite differences of itself, not of forward. So a
gradient that differs from the derivative by intention (a reversal) can have a correct second derivative.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from gradscope.doctor.diagnoses.contract.failures import named
from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.finite_differences import compare_map
from gradscope.doctor.report.messages import recognise
from gradscope.doctor.subject.run import ForwardBackwardRun, run_subject, weights_like
from gradscope.findings import Finding, finding
from gradscope.hooks import find_functions

__all__ = [
    "find_second_order_faults",
]


_WRONG_FIRST_GRADIENT: Final = (
    "wrong-gradient-count",
    "missing-transpose",
    "missing-gradient",
    "wrong-gradient",
    "wrong-gradient-sign",
    "wrong-gradient-scale",
)


def find_second_order_faults(exam: Examination) -> Iterator[Finding]:
    """Differentiate the gradient, and compare the result with finite differences of the gradient."""
    if exam.is_approximate or exam.has_found(*_WRONG_FIRST_GRADIENT):
        return
    exam.covered.add("second order")
    outcome = run_subject(exam.in_double, create_graph=True)
    if outcome.failure is not None:
        yield _raising_finding(exam, outcome.failure.text, outcome.failure.where)
        return
    asked = [g for g in outcome.gradients if g is not None]
    ends = [g for g in asked if g.requires_grad]
    try:
        # Not autograd.grad: with these inputs only, it does not reach the node that once_differentiable uses to raise.
        if ends:
            torch.autograd.backward(ends, [weights_like(g.detach(), 1) for g in ends])
    except Exception as error:  # noqa: BLE001 - any exception of the user's function is the finding
        yield _raising_finding(exam, f"{type(error).__name__}: {error}", "")
        return
    sources = [*(leaf for leaf in outcome.leaves if leaf.requires_grad), *outcome.weights]
    second = [source.grad for source in sources]
    yield from _compare_second_gradients(exam, outcome, asked, second)


def _compare_second_gradients(
    exam: Examination,
    outcome: ForwardBackwardRun,
    asked: Sequence[Tensor],
    second: Sequence[Tensor | None],
) -> Iterator[Finding]:
    gradient_map = _GradientMap(exam, outcome)
    at = [*(leaf.value for leaf in exam.in_double.leaves), *(w.detach() for w in outcome.weights)]
    names = [leaf.name for leaf in exam.in_double.leaves]
    names += [f"grad_output {i}" for i in range(len(outcome.weights))]
    places = [i for i, leaf in enumerate(outcome.leaves) if leaf.requires_grad]
    places += range(len(outcome.leaves), len(at))
    weights = [weights_like(g.detach(), 1) for g in asked]
    broken: dict[str, str] = {}
    wrong: dict[str, str] = {}
    nonfinite: dict[str, str] = {}
    for place, claimed in zip(places, second, strict=True):
        gradient = torch.zeros_like(at[place]) if claimed is None else claimed
        if not bool(gradient.isfinite().all()):
            count = int((~gradient.isfinite()).sum())
            nonfinite[f"in {names[place]}"] = f"{count} elements are NaN or infinite"
            continue
        slope, true, is_off = compare_map(gradient_map, at, weights, place, gradient, exam.precision)
        if is_off:
            found = wrong if bool(gradient.any()) else broken
            found[f"in {names[place]}"] = (
                f"backward's graph says {slope:.6g}, central differences {true:.6g}"
            )
    if wrong and not _has_nested_functions(exam, asked):
        broken, wrong = broken | wrong, {}
    if nonfinite:
        yield _nonfinite_finding(exam, nonfinite)
    if broken:
        yield _broken_graph_finding(exam, broken)
    if wrong:
        yield _wrong_finding(exam, wrong)


class _GradientMap:
    """The map from inputs and grad_outputs to gradients."""

    def __init__(self, exam: Examination, outcome: ForwardBackwardRun) -> None:
        self._subject = exam.in_double
        self._leaves = len(outcome.leaves)

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        weights = iter(tensors[self._leaves :])
        outcome = run_subject(
            self._subject.with_values(tensors[: self._leaves]), weigh=lambda _: next(weights).detach()
        )
        return [g for g in outcome.gradients if g is not None]


def _has_nested_functions(exam: Examination, gradients: Sequence[Tensor]) -> bool:
    """Return whether backward calls a custom Function, whose own backward may be wrong.

    If it calls none and its values are right, a wrong derivative can only be caused by a cut graph.
    """
    return bool(set(find_functions(gradients)) - set(exam.subject.functions))


def _raising_finding(exam: Examination, text: str, where: str) -> Finding:
    is_declared = "once_differentiable" in text
    known = recognise(text)
    return finding(
        "not-twice-differentiable",
        "a second derivative is refused, because of once_differentiable"
        if is_declared
        else f"a second derivative raises {text.splitlines()[0]}",
        cause="backward is declared to be differentiable only once"
        if is_declared
        else known.cause
        if known
        else None,
        fix="nothing, if no second derivative is needed" if is_declared else None,
        where=where or exam.location,
        severity="hint" if is_declared else None,
        evidence=named(text),
    )


def _broken_graph_finding(exam: Examination, evidence: dict[str, str]) -> Finding:
    cuts = [f for f in exam.facts if f.is_cutting]
    return finding(
        "graph-broken",
        "the gradient is right, but its derivative is silently wrong: backward cuts the graph",
        where=cuts[0].where if cuts else exam.location,
        severity="error" if exam.is_second_order else "warning",
        evidence=evidence | _untracked_tensors(exam) | {f.where: f.text for f in cuts},
    )


def _untracked_tensors(exam: Examination) -> dict[str, str]:
    return {
        f"saved tensor {place} of {call.function.__name__}": "neither an argument nor an output of forward: it "
        "has no graph"
        for call in exam.first_run.calls
        for place in call.untracked_saved
    }


def _nonfinite_finding(exam: Examination, evidence: dict[str, str]) -> Finding:
    return finding(
        "wrong-second-gradient",
        "the second derivative is not finite, although the first one is",
        cause="backward computes a root, a logarithm or a quotient at a point where its derivative is "
        "infinite, and multiplies it by 0",
        fix="avoid the point: torch.where on the argument, not on the result; or declare "
        "backward with @once_differentiable",
        where=exam.location,
        evidence=evidence,
    )


def _wrong_finding(exam: Examination, evidence: dict[str, str]) -> Finding:
    return finding(
        "wrong-second-gradient",
        "the second derivative is wrong, although the graph is complete",
        where=exam.location,
        evidence=evidence,
    )
