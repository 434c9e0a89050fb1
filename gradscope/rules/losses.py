"""The check for a loss that jumps above its baseline. Losses are logged scalars named `loss` or `…loss`."""

import math

import numpy as np

from gradscope.rules.alerts import RuleFinding
from gradscope.rules.baseline import Baseline
from gradscope.rules.step_view import StepView
from gradscope.rules.thresholds import Threshold
from gradscope.rules.thresholds import limit as limit_of

__all__ = ["is_loss", "loss_spike"]

_PART_OF_FIRST = 0.1
"""A spike must also reach this fraction of the first loss, so that a tiny loss may fluctuate."""


def is_loss(name: str) -> bool:
    """Return whether a scalar of this name is a loss."""
    return name.endswith("loss")


def loss_spike(view: StepView, threshold: Threshold, baseline: Baseline) -> list[RuleFinding]:
    """Find losses that are not finite, or far above their baseline.

    A negative loss has no meaningful ratio to a baseline: it is only checked for NaN and infinity.
    """
    factor = limit_of(threshold)
    names = tuple(sorted(name for name in view.scalars if is_loss(name)))
    if not names:
        return []
    values = np.array([view.scalars[name] for name in names])
    excess = baseline.excess(names, values, factor)
    finite = values[np.isfinite(values)]
    if baseline.first_level is None and len(finite):
        baseline.first_level = float(np.abs(finite).max())
    floor = _PART_OF_FIRST * (baseline.first_level or 0.0)
    found: list[RuleFinding] = []
    for name, value, times in zip(names, values, excess, strict=True):
        if not math.isfinite(value):
            found.append(RuleFinding("", name, float(value), math.inf, "{} is {}", (name, value)))
        elif not math.isnan(times) and value > floor:
            words = "{} is {:.4g}, {:.3g} times its baseline of {:.4g}"
            limit, shown = float(value / times * factor), (name, value, times, value / times)
            found.append(RuleFinding("", name, float(value), limit, words, shown))
    return found
