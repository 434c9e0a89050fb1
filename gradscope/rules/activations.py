"""Checks for dead and saturated activations.

Both checks judge a whole layer, over all units and the whole batch, because the columns do not keep
units apart. To find a single dead unit, capture the tensor.
"""

import numpy as np

from gradscope.rules.alerts import RuleFinding
from gradscope.rules.baseline import Baseline
from gradscope.rules.step_view import StepView, any_of, indices_of
from gradscope.rules.thresholds import Threshold
from gradscope.rules.thresholds import limit as limit_of

__all__ = ["dead", "saturated"]

_TANH = frozenset({"Tanh"})
_SIGMOID = frozenset({"Sigmoid"})


def dead(view: StepView, threshold: Threshold, baseline: Baseline) -> list[RuleFinding]:  # noqa: ARG001 - all checks take these arguments
    """Find layers whose output is entirely or almost entirely zero.

    At full detail the column `zero` counts zeros. At core detail only an output that is entirely zero
    is found, from its minimum and maximum.
    """
    limit = limit_of(threshold)
    least, greatest = view.by_layer("out", "min"), view.by_layer("out", "max")
    fraction = np.where((least == 0) & (greatest == 0), 1.0, np.nan)
    if view.block is not None and "zero" in view.block.values:
        zero, finite = view.by_layer("out", "zero"), view.by_layer("out", "finite")
        with np.errstate(invalid="ignore", divide="ignore"):
            fraction = np.where(finite > 0, zero / finite, fraction)
    return [
        RuleFinding(
            view.layers[i],
            "out",
            float(fraction[i]),
            limit,
            "{:.2%} of the output is zero",
            (fraction[i],),
        )
        for i in indices_of(fraction > limit)
    ]


def saturated(view: StepView, threshold: Threshold, baseline: Baseline) -> list[RuleFinding]:  # noqa: ARG001 - as above
    """Find Tanh and Sigmoid layers that are saturated: their slope lets almost no gradient through.

    The mean slope is exact: for y = tanh(x) it is 1 - mean(y^2); for y = sigmoid(x) it is
    mean(y) - mean(y^2), which is at most 1/4. The slope of other bounded activations cannot be derived
    from the columns, so they are not judged.
    """
    limit = limit_of(threshold)
    if not any_of(view.types_are(_TANH | _SIGMOID)):  # true for most models
        return []
    is_tanh, is_sigmoid = view.types_are(_TANH), view.types_are(_SIGMOID)
    mean, rms = view.by_layer("out", "mean"), view.by_layer("out", "rms")
    slope = np.where(is_tanh, 1.0 - rms**2, np.nan)
    slope = np.where(is_sigmoid, 4.0 * (mean - rms**2), slope)
    return [
        RuleFinding(
            view.layers[i],
            "out",
            max(float(slope[i]), 0.0),
            limit,
            "saturated: the mean slope is {:.2%} of the maximum slope",
            (max(slope[i], 0.0),),
        )
        for i in indices_of(slope < limit)
    ]
