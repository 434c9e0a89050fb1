"""Checks for parameter gradients that are too large, too small, or far from their baseline.

All three use the row `param_grad` of each layer: the gradient that the optimizer receives.
"""

import numpy as np

from gradscope.rules.alerts import RuleFinding
from gradscope.rules.baseline import Baseline
from gradscope.rules.step_view import StepView, indices_of
from gradscope.rules.thresholds import Threshold
from gradscope.rules.thresholds import limit as limit_of

__all__ = ["exploding", "spike", "vanishing"]

_KIND = "param_grad"


def exploding(view: StepView, threshold: Threshold, baseline: Baseline) -> list[RuleFinding]:  # noqa: ARG001 - all checks take these arguments
    """Find layers whose gradient norm is over the threshold."""
    limit = limit_of(threshold)
    norms = view.by_layer(_KIND, "norm")
    words = "gradient norm {:.3g}, over {:g}"
    return [
        RuleFinding(view.layers[i], _KIND, float(norms[i]), limit, words, (norms[i], limit))
        for i in indices_of(norms > limit)
    ]


def vanishing(view: StepView, threshold: Threshold, baseline: Baseline) -> list[RuleFinding]:  # noqa: ARG001 - as above
    """Find layers whose gradient rms is tiny compared with the largest gradient rms of all layers.

    The root mean square makes layers of different sizes comparable.
    """
    fraction = limit_of(threshold)
    rms = view.by_layer(_KIND, "rms")
    known = rms[np.isfinite(rms)]
    greatest = float(known.max()) if len(known) else 0.0
    limit = fraction * greatest
    words = "gradient rms {:.3g}; the largest of all layers is {:.3g}"
    return [
        RuleFinding(view.layers[i], _KIND, float(rms[i]), limit, words, (rms[i], greatest))
        for i in indices_of(rms < limit)
    ]


def spike(view: StepView, threshold: Threshold, baseline: Baseline) -> list[RuleFinding]:
    """Find layers whose gradient norm is far above its baseline."""
    factor = limit_of(threshold)
    norms = view.by_layer(_KIND, "norm")
    excess = baseline.excess(view.layers, norms, factor)
    return [
        RuleFinding(
            view.layers[i],
            _KIND,
            float(norms[i]),
            float(norms[i] / excess[i] * factor),
            "gradient norm {:.3g}, {:.3g} times its baseline of {:.3g}",
            (norms[i], excess[i], norms[i] / excess[i]),
        )
        for i in indices_of(~np.isnan(excess))
    ]
