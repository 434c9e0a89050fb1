"""Whether the gradient can be differentiated again.

Codes: graph-broken, not-twice-differentiable, wrong-second-gradient.

The map from inputs and grad_output to gradients is compared with finite differences of itself, so a
gradient that is meant to differ from the derivative (a reversal) is held to what it does.
"""

from collections.abc import Iterator, Sequence
from typing import Final

import torch
from torch import Tensor

from gradscope.doctor.diagnoses.failures import WRONG_GRADIENT_COUNT, named
from gradscope.doctor.diagnoses.transpose import MISSING_TRANSPOSE
from gradscope.doctor.diagnoses.wrong_gradient import (
    MISSING_GRADIENT,
    WRONG_GRADIENT,
    WRONG_GRADIENT_SCALE,
    WRONG_GRADIENT_SIGN,
)
from gradscope.doctor.examination import Examination
from gradscope.doctor.numerics.finite_differences import compare_map
from gradscope.doctor.report.codes import SECOND_ORDER, Code
from gradscope.doctor.report.messages import recognise
from gradscope.doctor.report.report import Finding
from gradscope.doctor.subject.run import ForwardBackwardRun, run_subject, weights_like
from gradscope.hooks import find_functions

__all__ = [
    "GRAPH_BROKEN",
    "NOT_TWICE_DIFFERENTIABLE",
    "WRONG_SECOND_GRADIENT",
    "find_second_order_faults",
]

GRAPH_BROKEN: Final = Code(
    "graph-broken",
    "warning",
    fault="a link cut in backward",
    found_by="the gradient's own derivative against differences; an error with `second_order`",
    group=SECOND_ORDER,
)
WRONG_SECOND_GRADIENT: Final = Code(
    "wrong-second-gradient",
    "error",
    fault="a nested Function with a wrong backward, an infinite second derivative",
    found_by="the same, the graph being whole",
    group=SECOND_ORDER,
)
NOT_TWICE_DIFFERENTIABLE: Final = Code(
    "not-twice-differentiable",
    "warning",
    fault="a second backward raises",
    found_by="running; a hint where `once_differentiable` declares it",
    group=SECOND_ORDER,
)


_WRONG_FIRST_GRADIENT: Final = (
    WRONG_GRADIENT_COUNT,
    MISSING_TRANSPOSE,
    MISSING_GRADIENT,
    WRONG_GRADIENT,
    WRONG_GRADIENT_SIGN,
    WRONG_GRADIENT_SCALE,
)


def find_second_order_faults(exam: Examination) -> Iterator[Finding]:
    """Differentiate the gradient once more, and compare."""
    if exam.is_approximate or exam.has_found(*_WRONG_FIRST_GRADIENT):
        return
    exam.covered.add("second order")
    outcome = run_subject(exam.in_double, create_graph=True)
    if outcome.failure is not None:
        yield _raises(exam, outcome.failure.text, outcome.failure.where)
        return
    asked = [g for g in outcome.gradients if g is not None]
    ends = [g for g in asked if g.requires_grad]
    try:
        # Not autograd.grad: asked for the sources alone, it would never meet the node by which
        # once_differentiable refuses.
        if ends:
            torch.autograd.backward(ends, [weights_like(g.detach(), 1) for g in ends])
    except Exception as error:  # noqa: BLE001 - whatever the user's function raises is the finding
        yield _raises(exam, f"{type(error).__name__}: {error}", "")
        return
    sources = [*(leaf for leaf in outcome.leaves if leaf.requires_grad), *outcome.weights]
    second = [source.grad for source in sources]
    yield from _compared(exam, outcome, asked, second)


def _compared(
    exam: Examination,
    outcome: ForwardBackwardRun,
    asked: Sequence[Tensor],
    second: Sequence[Tensor | None],
) -> Iterator[Finding]:
    gradient_map = _GradientMap(exam, outcome)
    at = [*(leaf.value for leaf in exam.in_double.leaves), *(w.detach() for w in outcome.weights)]
    names = [leaf.name for leaf in exam.in_double.leaves] + ["grad_output"] * len(outcome.weights)
    places = [i for i, leaf in enumerate(outcome.leaves) if leaf.requires_grad]
    places += range(len(outcome.leaves), len(at))
    weights = [weights_like(g.detach(), 1) for g in asked]
    broken: list[str] = []
    wrong: list[str] = []
    endless: list[str] = []
    for place, claimed in zip(places, second, strict=True):
        gradient = torch.zeros_like(at[place]) if claimed is None else claimed
        if not bool(gradient.isfinite().all()):
            endless.append(
                f"in {names[place]}: {int((~gradient.isfinite()).sum())} elements are NaN or infinite"
            )
            continue
        slope, true, is_off = compare_map(gradient_map, at, weights, place, gradient, exam.precision)
        if is_off:
            line = (
                f"in {names[place]}: backward's graph says {slope:.6g}, central differences {true:.6g}"
            )
            (broken if not bool(gradient.any()) else wrong).append(line)
    if wrong and not _has_nested_functions(exam, asked):
        broken, wrong = broken + wrong, []
    if endless:
        yield _endless(exam, endless)
    if broken:
        yield _broken(exam, broken)
    if wrong:
        yield _wrong(exam, wrong)


class _GradientMap:
    """Inputs and grad_outputs in, gradients out."""

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
    """Return whether backward calls a custom Function, whose own backward may then be wrong.

    Where it calls none, and its values are right, a wrong derivative can only come from a link that
    is cut.
    """
    return bool(set(find_functions(gradients)) - set(exam.subject.functions))


def _raises(exam: Examination, text: str, where: str) -> Finding:
    is_declared = "once_differentiable" in text
    known = recognise(text)
    return NOT_TWICE_DIFFERENTIABLE.finding(
        "a second derivative is refused, as declared by once_differentiable"
        if is_declared
        else f"a second derivative raises {text.splitlines()[0]}",
        cause="backward is declared to be differentiable once"
        if is_declared
        else (
            known.cause
            if known
            else "backward uses what autograd cannot differentiate (numpy, in-place, foreign code)"
        ),
        fix="nothing, where no second derivative is needed"
        if is_declared
        else "write backward in differentiable operations, or declare it with @once_differentiable",
        where=where or exam.location,
        severity="hint" if is_declared else None,
        evidence=named(text),
    )


def _broken(exam: Examination, evidence: Sequence[str]) -> Finding:
    cuts = [f for f in exam.facts if f.is_cutting]
    return GRAPH_BROKEN.finding(
        "the gradient is right, and its own derivative is silently wrong: the graph is cut in backward",
        cause="backward uses something that autograd cannot follow: .data, detach, numpy, item, "
        "no_grad, or a clone or intermediate of forward, which carries no graph",
        fix="save inputs and outputs themselves and recompute intermediates in backward; else declare "
        "backward with @once_differentiable, so that a second derivative raises",
        where=cuts[0].where if cuts else exam.location,
        severity="error" if exam.is_second_order else "warning",
        evidence=[*evidence, *_loose_ends(exam), *(f"{f.where}: {f.text}" for f in cuts)],
    )


def _loose_ends(exam: Examination) -> Iterator[str]:
    for call in exam.first_run.calls:
        for place in call.untracked_saved:
            yield (
                f"saved tensor {place} of {call.function.__name__} is neither an argument nor an "
                "output of forward: it carries no graph"
            )


def _endless(exam: Examination, evidence: Sequence[str]) -> Finding:
    return WRONG_SECOND_GRADIENT.finding(
        "the second derivative is not finite, although the first one is",
        cause="backward takes a root, a logarithm or a quotient at a point where its own derivative is "
        "infinite, and multiplies that with 0",
        fix="keep the point away from it: torch.where on the argument, not on the result; or declare "
        "backward with @once_differentiable",
        where=exam.location,
        evidence=evidence,
    )


def _wrong(exam: Examination, evidence: Sequence[str]) -> Finding:
    return WRONG_SECOND_GRADIENT.finding(
        "the second derivative is wrong, although the graph is whole",
        cause="a custom Function that backward calls has a wrong backward itself",
        fix="examine that Function by itself",
        where=exam.location,
        evidence=evidence,
    )
