"""Gradients of parameters that are too large, too small, or out of their own habit.

All three look at the row `param_grad` of each layer: what the optimizer is given.
"""

import numpy as np

from gradscope.rules.alerts import Finding
from gradscope.rules.baseline import Baseline
from gradscope.rules.step_view import StepView, places_of
from gradscope.rules.thresholds import Threshold
from gradscope.rules.thresholds import limit as limit_of

__all__ = ["exploding", "spike", "vanishing"]

_KIND = "param_grad"


def exploding(reading: StepView, threshold: Threshold, past: Baseline) -> list[Finding]:  # noqa: ARG001 - a check's arguments
    """Find layers whose gradient norm is over the threshold."""
    limit = limit_of(threshold)
    norms = reading.by_layer(_KIND, "norm")
    return [
        Finding(
            reading.layers[i],
            _KIND,
            float(norms[i]),
            limit,
            "gradient norm {:.3g}, over {:g}",
            (norms[i], limit),
        )
        for i in places_of(norms > limit)
    ]


def vanishing(reading: StepView, threshold: Threshold, past: Baseline) -> list[Finding]:  # noqa: ARG001 - as above
    """Find layers whose gradient, element for element, is next to nothing beside the greatest.

    The greatest is over all layers of the step; root mean squares, so that size does not matter.
    """
    fraction = limit_of(threshold)
    rms = reading.by_layer(_KIND, "rms")
    known = rms[np.isfinite(rms)]
    greatest = float(known.max()) if len(known) else 0.0
    limit = fraction * greatest
    words = "gradient rms {:.3g}, the greatest of all layers is {:.3g}"
    return [
        Finding(reading.layers[i], _KIND, float(rms[i]), limit, words, (rms[i], greatest))
        for i in places_of(rms < limit)
    ]


def spike(reading: StepView, threshold: Threshold, past: Baseline) -> list[Finding]:
    """Find layers whose gradient norm is far above what it has been lately."""
    factor = limit_of(threshold)
    norms = reading.by_layer(_KIND, "norm")
    excess = past.excess(reading.layers, norms, factor)
    return [
        Finding(
            reading.layers[i],
            _KIND,
            float(norms[i]),
            float(norms[i] / excess[i] * factor),
            "gradient norm {:.3g}, {:.3g} times its usual {:.3g}",
            (norms[i], excess[i], norms[i] / excess[i]),
        )
        for i in places_of(~np.isnan(excess))
    ]
