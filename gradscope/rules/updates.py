"""Steps of the optimizer that are too large or too small for the weights they change."""

import numpy as np

from gradscope.columns import update_ratio as ratio_of
from gradscope.rules.alerts import Finding
from gradscope.rules.baseline import Baseline
from gradscope.rules.step_view import Floats, StepView, places_of
from gradscope.rules.thresholds import Threshold, limits

__all__ = ["update_ratio"]

_FAR = 10.0
"""A single layer is told of when it is so many times outside of the pair: layers differ by as much."""
_BEHIND = 100.0
"""A single layer is slow only when it is also so many times slower than the usual one."""


def update_ratio(reading: StepView, threshold: Threshold, past: Baseline) -> list[Finding]:
    """Find updates that are no reasonable part of the weights: of the model, and of single layers.

    The model's is the median of its layers. It is too small only as long as it has never been within
    the pair: later on a schedule has brought it down. A layer that was not updated at all (frozen, no
    gradient, a learning rate of 0, a skipped step) is not judged.
    """
    least, greatest = limits(threshold)
    update, weight = reading.by_layer("update", "norm"), reading.by_layer("param", "norm")
    ratio = np.where(update > 0, ratio_of(update, weight), np.nan)
    known = ratio[~np.isnan(ratio)]
    if not len(known):
        return []
    known.sort()  # the least and the greatest stand at its ends
    usual = float(known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2  # the median
    past.has_been_well = past.has_been_well or least <= usual <= greatest
    low, high = least / _FAR, greatest * _FAR
    found: list[Finding] = []
    if known[-1] > high or known[0] < min(low, usual / _BEHIND):
        found = _of_layers(reading, ratio, usual, low, high)
    if usual > greatest or (usual < least and not past.has_been_well):
        words = "the median Δw/w of all layers is {:.3g}, {}"
        told = usual, _side(usual, least, greatest)
        found.insert(0, Finding("", "update", usual, least if usual < least else greatest, words, told))
    return found


def _of_layers(
    reading: StepView, ratio: Floats, usual: float, least: float, greatest: float
) -> list[Finding]:
    with np.errstate(invalid="ignore"):
        is_out = (ratio > greatest) | ((ratio < least) & (ratio < usual / _BEHIND))
    return [
        Finding(
            reading.layers[i],
            "update",
            float(ratio[i]),
            least if ratio[i] < least else greatest,
            "Δw/w is {:.3g}, {}",
            (ratio[i], _side(ratio[i], least, greatest)),
        )
        for i in places_of(is_out)
    ]


def _side(ratio: float, least: float, greatest: float) -> str:
    return f"under {least:g}" if ratio < least else f"over {greatest:g}"
