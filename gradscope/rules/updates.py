"""The check for optimizer updates that are too large or too small for their weights."""

import numpy as np

from gradscope.columns import update_ratio as ratio_of
from gradscope.rules.alerts import RuleFinding
from gradscope.rules.baseline import Baseline
from gradscope.rules.step_view import Floats, StepView, indices_of
from gradscope.rules.thresholds import Threshold, limits

__all__ = ["update_ratio"]

_FAR = 10.0
"""A single layer is reported only if its ratio is outside the range by this factor, because layers differ."""
_BEHIND = 100.0
"""A single layer is too slow only if its ratio is also this many times lower than the median layer's."""


def update_ratio(view: StepView, threshold: Threshold, baseline: Baseline) -> list[RuleFinding]:
    """Find update ratios |Δw| / |w| outside the healthy range, for the model and for single layers.

    The ratio of the model is the median over its layers. It is reported as too small only if it has never
    been in the range: later, a learning-rate schedule explains it. A layer that was not updated at all
    (frozen, no gradient, learning rate 0, skipped step) is not judged.
    """
    least, greatest = limits(threshold)
    update, weight = view.by_layer("update", "norm"), view.by_layer("param", "norm")
    ratio = np.where(update > 0, ratio_of(update, weight), np.nan)
    known = ratio[~np.isnan(ratio)]
    if not len(known):
        return []
    known.sort()
    usual = float(known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2  # the median
    baseline.was_in_range = baseline.was_in_range or least <= usual <= greatest
    low, high = least / _FAR, greatest * _FAR
    found: list[RuleFinding] = []
    if known[-1] > high or known[0] < min(low, usual / _BEHIND):
        found = _of_layers(view, ratio, usual, low, high)
    if usual > greatest or (usual < least and not baseline.was_in_range):
        words = "the median Δw/w of all layers is {:.3g}, {}"
        values = usual, _side(usual, least, greatest)
        found.insert(
            0, RuleFinding("", "update", usual, least if usual < least else greatest, words, values)
        )
    return found


def _of_layers(
    view: StepView, ratio: Floats, usual: float, least: float, greatest: float
) -> list[RuleFinding]:
    with np.errstate(invalid="ignore"):
        is_out = (ratio > greatest) | ((ratio < least) & (ratio < usual / _BEHIND))
    return [
        RuleFinding(
            view.layers[i],
            "update",
            float(ratio[i]),
            least if ratio[i] < least else greatest,
            "Δw/w is {:.3g}, {}",
            (ratio[i], _side(ratio[i], least, greatest)),
        )
        for i in indices_of(is_out)
    ]


def _side(ratio: float, least: float, greatest: float) -> str:
    return f"under {least:g}" if ratio < least else f"over {greatest:g}"
