"""Activations that carry nothing: outputs that are zero, and slopes that are.

Both are of a layer as a whole, over all units and the whole batch: the columns keep no unit apart. A
single dead unit is seen in a captured tensor, not here.
"""

import numpy as np

from gradscope.rules.alerts import Finding
from gradscope.rules.baseline import Baseline
from gradscope.rules.step_view import StepView, any_of, places_of
from gradscope.rules.thresholds import Threshold
from gradscope.rules.thresholds import limit as limit_of

__all__ = ["dead", "saturated"]

_TANH = frozenset({"Tanh"})
_SIGMOID = frozenset({"Sigmoid"})


def dead(reading: StepView, threshold: Threshold, past: Baseline) -> list[Finding]:  # noqa: ARG001 - a check's arguments
    """Find layers whose output is zero, wholly or nearly.

    At full detail the zeros are counted. At core detail they are not; an output without any other
    number than zero is known by its least and its greatest.
    """
    limit = limit_of(threshold)
    least, greatest = reading.by_layer("out", "min"), reading.by_layer("out", "max")
    fraction = np.where((least == 0) & (greatest == 0), 1.0, np.nan)
    if reading.block is not None and "zero" in reading.block.values:
        zero, finite = reading.by_layer("out", "zero"), reading.by_layer("out", "finite")
        with np.errstate(invalid="ignore", divide="ignore"):
            fraction = np.where(finite > 0, zero / finite, fraction)
    return [
        Finding(
            reading.layers[i],
            "out",
            float(fraction[i]),
            limit,
            "{:.2%} of the output is zero",
            (fraction[i],),
        )
        for i in places_of(fraction > limit)
    ]


def saturated(reading: StepView, threshold: Threshold, past: Baseline) -> list[Finding]:  # noqa: ARG001 - as above
    """Find Tanh and Sigmoid layers that sit at their ends, where next to no gradient passes.

    The mean slope is exact from the columns: of y = tanh(x) it is 1 - mean(y^2), of y = sigmoid(x) it
    is mean(y) - mean(y^2), at most 1/4. Other bounded activations do not give theirs away.
    """
    limit = limit_of(threshold)
    if not any_of(reading.types_are(_TANH | _SIGMOID)):  # as in most models
        return []
    is_tanh, is_sigmoid = reading.types_are(_TANH), reading.types_are(_SIGMOID)
    mean, rms = reading.by_layer("out", "mean"), reading.by_layer("out", "rms")
    slope = np.where(is_tanh, 1.0 - rms**2, np.nan)
    slope = np.where(is_sigmoid, 4.0 * (mean - rms**2), slope)
    return [
        Finding(
            reading.layers[i],
            "out",
            max(float(slope[i]), 0.0),
            limit,
            "saturated: its mean slope is {:.2%} of the greatest",
            (max(slope[i], 0.0),),
        )
        for i in places_of(slope < limit)
    ]
