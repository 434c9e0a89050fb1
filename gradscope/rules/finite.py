"""Numbers that are not finite, and which tensor had them first.

The rows of a block stand in the order in which the layers first ran. So the forward pass is read from
the top, the backward pass from the bottom: a layer's `grad` (the gradient at its output) comes before
its `param_grad`, and both before the `grad` of what ran before it. Where branches run beside one
another the true order of the backward pass may differ from this between them.
"""

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import Block
from gradscope.rules.alerts import Finding
from gradscope.rules.baseline import Baseline
from gradscope.rules.step_view import StepView, any_of
from gradscope.rules.thresholds import Threshold
from gradscope.rules.thresholds import limit as limit_of

__all__ = ["nonfinite"]

_COUNTS = ("nan", "posinf", "neginf")
_FORWARD = "first in the forward pass, in the output of {layer}"
_PARAMETER = "in the parameters of {layer} already: they come from an earlier step"
_AT_OUTPUT = "first in the backward pass, in the gradient that arrives at the output of {layer}"
_OF_PARAMETERS = "first in the backward pass, in the parameter gradients of {layer}"
_UPDATE = "first in the optimizer's update of {layer}"
_WORDS = {
    "param": _PARAMETER,
    "out": _FORWARD,
    "grad": _AT_OUTPUT,
    "param_grad": _OF_PARAMETERS,
    "update": _UPDATE,
}


def nonfinite(reading: StepView, threshold: Threshold, past: Baseline) -> list[Finding]:  # noqa: ARG001 - a check's arguments
    """Find the first tensor that is not finite; at most one finding, for the rest follows from it.

    An infinity in an output alone is no finding: masks are made of them. Where there is anything else,
    it is the origin if it comes first.
    """
    block = reading.block
    if block is None or not any(any_of(block.values[name]) for name in _COUNTS if name in block.values):
        return []  # as nearly always, and it is asked in every observed step
    bad = np.nan_to_num(reading.column("nonfinite"))
    if not bad.any():
        return []
    roots = [_root(kind) for kind in block.kinds]
    is_output = np.isin(block.kind, [i for i, root in enumerate(roots) if root == "out"])
    counted = np.where(is_output, np.nan_to_num(reading.column("nan")), bad)
    total = float(counted.sum())
    if total <= limit_of(threshold):
        return []
    first = _first(block, roots, np.flatnonzero(bad > 0))
    return [_finding(reading, block, roots, bad, first)]


def _root(kind: str) -> str:
    """Return which of the five kinds a row's is: `grad_arriving`, say, is a gradient at an output."""
    root = kind.partition(".")[0]
    return "grad" if root.startswith("grad") else root


def _finding(
    reading: StepView, block: Block, roots: list[str], bad: NDArray[np.float64], row: int
) -> Finding:
    layer = reading.layers[int(block.layer[row])]
    root, kind = roots[int(block.kind[row])], block.kinds[int(block.kind[row])]
    nan, inf = reading.column("nan")[row], reading.column("inf")[row]
    what = " and ".join(f"{word} {int(n)}" for word, n in (("NaN", nan), ("Inf", inf)) if n)
    others = int((bad > 0).sum()) - 1
    words = _WORDS[root].format(layer=layer or "the model")
    rest = f"; {others} other tensors too" if others else ""
    return Finding(layer, kind, float(bad[row]), 0.0, "{} {}{}", (what, words, rest))


def _first(block: Block, roots: list[str], rows: NDArray[np.intp]) -> int:
    """Return the row whose tensor was computed first."""
    latest: dict[int, int] = {}
    for row in range(len(block)):
        if roots[int(block.kind[row])] in ("out", "grad"):
            latest[int(block.layer[row])] = row
    return min((int(row) for row in rows), key=lambda row: _order(block, roots, latest, row))


def _order(
    block: Block, roots: list[str], latest: dict[int, int], row: int
) -> tuple[int, int, int, int]:
    """Return what sorts rows by when they were computed: stage, place, parts of one layer, row."""
    root, layer = roots[int(block.kind[row])], int(block.layer[row])
    if root == "param":
        return 0, row, 0, row
    if root == "out":
        return 1, row, 0, row
    if root == "update":
        return 3, row, 0, row
    place = -row if root != "param_grad" else -latest.get(layer, -len(block))
    return 2, place, int(root == "param_grad"), row
