"""Checks of numbers that leave the range of their format."""

import numpy as np

from gradscope.rules.alerts import RuleFinding
from gradscope.rules.step_view import StepView, any_of, indices_of
from gradscope.rules.thresholds import Threshold
from gradscope.rules.thresholds import limit as limit_of

__all__ = ["overflow", "underflow"]

_STEPS = 5
_KINDS = ("grad", "param_grad")


def underflow(view: StepView, threshold: Threshold, memory: None) -> list[RuleFinding]:  # noqa: ARG001 - all checks take these arguments
    """Find gradients of which half of the nonzero elements are subnormal, so the smaller ones have become zero.

    Needs the columns of full detail. float32 and bfloat16 have subnormals below 1e-38 only, float16 below 6e-5.
    """
    block = view.block
    if block is None or "subnormal" not in block.values or not any_of(block.values["subnormal"]):
        return []
    found: list[RuleFinding] = []
    for kind in _KINDS:
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
