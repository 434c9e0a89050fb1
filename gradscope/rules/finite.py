"""The check for NaN and infinity, and for the tensor in which they appeared first.

The rows of a block are in the order in which the layers first ran. The forward pass therefore reads
from the top, the backward pass from the bottom: a layer's `grad` (the gradient at its output) comes
before its `param_grad`, and both come before the `grad` of the layer that ran before it. In a model with
parallel branches, the true order of the backward pass may differ between the branches.
"""

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import Block, basic_kind
from gradscope.rules.alerts import RuleFinding
from gradscope.rules.step_view import StepView, any_of
from gradscope.rules.thresholds import Threshold
from gradscope.rules.thresholds import limit as limit_of

__all__ = ["nonfinite"]

_COUNTS = ("nan", "posinf", "neginf")
_ORIGINS = {
    "param": "in the parameters of {layer}, since an earlier step",
    "out": "first in the forward pass, in the output of {layer}",
    "grad": "first in the backward pass, in the gradient at the output of {layer}",
    "param_grad": "first in the backward pass, in the parameter gradients of {layer}",
    "update": "first in the optimizer's update of {layer}",
}


def nonfinite(view: StepView, threshold: Threshold, memory: None) -> list[RuleFinding]:  # noqa: ARG001 - all checks take these arguments
    """Find the first tensor that is not finite. At most one finding: the others follow from the first.

    An infinity in an output alone is not a finding, because attention masks contain infinities. If another
    tensor is not finite either, an infinite output that comes first is reported as the origin.
    """
    block = view.block
    if block is None or not any(any_of(block.values[name]) for name in _COUNTS if name in block.values):
        return []  # the fast path: this runs in every observed step
    bad = np.nan_to_num(view.column("nonfinite"))
    if not bad.any():
        return []
    roots = [basic_kind(kind) for kind in block.kinds]
    is_output = np.isin(block.kind, [i for i, root in enumerate(roots) if root == "out"])
    counted = np.where(is_output, np.nan_to_num(view.column("nan")), bad)
    total = float(counted.sum())
    if total <= limit_of(threshold):
        return []
    first = _first(block, roots, np.flatnonzero(bad > 0))
    return [_finding(view, block, roots, bad, first)]


def _finding(
    view: StepView, block: Block, roots: list[str], bad: NDArray[np.float64], row: int
) -> RuleFinding:
    layer = view.layers[int(block.layer[row])]
    root, kind = roots[int(block.kind[row])], block.kinds[int(block.kind[row])]
    nan, inf = view.column("nan")[row], view.column("inf")[row]
    what = " and ".join(f"{int(n)} {word}" for word, n in (("NaN", nan), ("Inf", inf)) if n)
    others = int((bad > 0).sum()) - 1
    origin = _ORIGINS[root].format(layer=layer or "the model")
    rest = f"; also in {others} other tensors" if others else ""
    return RuleFinding(layer, kind, float(bad[row]), 0.0, "{} {}{}", (what, origin, rest))


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
    """Return a sort key by time of computation: stage, position, order inside the layer, row."""
    root, layer = roots[int(block.kind[row])], int(block.layer[row])
    if root == "param":
        return 0, row, 0, row
    if root == "out":
        return 1, row, 0, row
    if root == "update":
        return 3, row, 0, row
    place = -row if root != "param_grad" else -latest.get(layer, -len(block))
    return 2, place, int(root == "param_grad"), row
