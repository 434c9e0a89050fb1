"""The checks for NaN and infinity, with the first tensor that has them, and for numbers outside of their format.

The rows of a block are in the order in which the layers first ran. The forward pass therefore reads
from the top, the backward pass from the bottom: a layer's `grad` (the gradient at its output) comes
before its `param_grad`, and both come before the `grad` of the layer that ran before it. In a model with
parallel branches, the true order of the backward pass may differ between the branches.
"""

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import INPUT_KIND, Block, basic_kind
from gradscope.rules.alerts import RuleFinding
from gradscope.rules.step_view import StepView, any_of, indices_of
from gradscope.rules.thresholds import Threshold
from gradscope.rules.thresholds import limit as limit_of

__all__ = ["nonfinite", "overflow", "underflow"]

_COUNTS = ("nan", "posinf", "neginf")
_STEPS = 5
"""Observed steps after which numbers outside of their format are reported."""
_GRADIENTS = ("grad", "param_grad")
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
    roots = [basic_kind(kind) for kind in block.kinds]
    if INPUT_KIND in roots:  # masks and missing values; what comes of them shows in the outputs
        bad[np.isin(block.kind, [i for i, root in enumerate(roots) if root == INPUT_KIND])] = 0
    if not bad.any():
        return []
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


def underflow(view: StepView, threshold: Threshold, memory: None) -> list[RuleFinding]:  # noqa: ARG001 - all checks take these arguments
    """Find gradients of which half of the nonzero elements are subnormal, so the smaller ones have become zero.

    Needs the columns of full detail. float32 and bfloat16 have subnormals below 1e-38 only, float16 below 6e-5.
    """
    block = view.block
    if block is None or "subnormal" not in block.values or not any_of(block.values["subnormal"]):
        return []
    found: list[RuleFinding] = []
    for kind in _GRADIENTS:
        few, zero = view.by_layer(kind, "subnormal"), view.by_layer(kind, "zero")
        finite = view.by_layer(kind, "finite")
        with np.errstate(invalid="ignore", divide="ignore"):
            part, lost = few / (finite - zero), zero / finite
        found += [
            RuleFinding(
                view.layers[i],
                kind,
                float(part[i]),
                limit_of(threshold),
                "{:.0%} of the nonzero gradient is below the normal range of its number format, and {:.0%} is zero",
                (part[i], lost[i]),
                weight=1.0 / _STEPS,
                evidence={"subnormal_fraction": float(part[i]), "zero_fraction": float(lost[i])},
            )
            for i in indices_of(part > limit_of(threshold))
        ]
    return found


def overflow(view: StepView, threshold: Threshold, memory: None) -> list[RuleFinding]:  # noqa: ARG001 - as above
    """Find the first layer with finite parameters whose output has more than `threshold` infinite elements, and no NaN.

    A sum of products of finite numbers is infinite only beyond the range of the format. An output with infinities of
    a layer without parameters may be a mask.
    """
    block = view.block
    if block is None or not (any_of(block.values["posinf"]) or any_of(block.values["neginf"])):
        return []
    infinite = view.by_layer("out", "inf")
    is_finite = view.by_layer("param", "nonfinite") == 0
    is_first = True
    for i in view.execution_order().tolist():
        if (
            is_first
            and is_finite[i]
            and infinite[i] > limit_of(threshold)
            and view.by_layer("out", "nan")[i] == 0
        ):
            words = "{:.0f} of {:.0f} elements of the output are infinite, while the weights are finite"
            count = view.by_layer("out", "count")[i]
            return [
                RuleFinding(view.layers[i], "out", float(infinite[i]), 0.0, words, (infinite[i], count))
            ]
        is_first = is_first and not view.by_layer("out", "nonfinite")[i] > 0
    return []
