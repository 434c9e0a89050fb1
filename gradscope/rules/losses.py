"""The loss: a jump above its own past. Read from what the training logs as `loss`, or `…loss`."""

import math

import numpy as np

from gradscope.rules.alerts import Finding
from gradscope.rules.baseline import Baseline
from gradscope.rules.step_view import StepView
from gradscope.rules.thresholds import Threshold
from gradscope.rules.thresholds import limit as limit_of

__all__ = ["is_loss", "loss_spike"]

_PART_OF_FIRST = 0.1
"""A spike must also reach this part of the loss with which the training began: where a loss has come
down to next to nothing, ten times next to nothing is no matter."""


def is_loss(name: str) -> bool:
    """Whether a scalar of this name is a loss."""
    return name.endswith("loss")


def loss_spike(reading: StepView, threshold: Threshold, past: Baseline) -> list[Finding]:
    """Find losses that are not finite, or far above what they have been lately.

    A loss that can be negative has no multiple: only its not being finite is found.
    """
    factor = limit_of(threshold)
    names = tuple(sorted(name for name in reading.scalars if is_loss(name)))
    if not names:
        return []
    values = np.array([reading.scalars[name] for name in names])
    excess = past.excess(names, values, factor)
    finite = values[np.isfinite(values)]
    if past.first_level is None and len(finite):
        past.first_level = float(np.abs(finite).max())
    floor = _PART_OF_FIRST * (past.first_level or 0.0)
    found: list[Finding] = []
    for name, value, times in zip(names, values, excess, strict=True):
        if not math.isfinite(value):
            found.append(Finding("", name, float(value), math.inf, "{} is {}", (name, value)))
        elif not math.isnan(times) and value > floor:
            words = "{} is {:.4g}, {:.3g} times its usual {:.4g}"
            limit, told = float(value / times * factor), (name, value, times, value / times)
            found.append(Finding("", name, float(value), limit, words, told))
    return found
