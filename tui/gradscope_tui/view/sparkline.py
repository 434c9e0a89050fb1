"""Sparklines: a row of blocks, one a step, on a logarithmic scale between the least and the greatest.

What is missing is a blank, what is not finite an exclamation mark: neither can be taken for a low
number.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["holes", "sparkline", "with_gaps"]

_BLOCKS = "▁▂▃▄▅▆▇"
"""Never the full block: lines of it would run into those above."""

_HOLE = 3.0
"""A distance of more than this many usual ones is a hole."""

_LEAST_RATIO = 2.0
"""The scale spans at least this ratio, so that noise stays low and a real change stands out."""

_LEAST_SPAN = 0.05
"""A plain scale spans at least this part of the number."""


def sparkline(values: NDArray[np.floating], width: int, *, is_log: bool = True) -> str:
    """Return the newest `width` values as blocks, right-aligned in `width` cells."""
    shown = np.asarray(values[-width:] if width else values[:0], np.float64)
    usable = np.isfinite(shown) & ((shown > 0) | (not is_log))
    heights = np.full(shown.shape, np.nan)
    heights[usable] = np.log(shown[usable]) if is_log else shown[usable]
    if not usable.any():
        return "".join(_unusable(v, is_log) for v in shown).rjust(width)
    least, greatest = np.nanmin(heights), np.nanmax(heights)
    span = greatest - least
    least_span = np.log(_LEAST_RATIO) if is_log else _LEAST_SPAN * max(abs(greatest), abs(least))
    if span < least_span:
        least, span = (least + greatest - least_span) / 2, least_span
    scaled = (heights - least) / span if span > 0 else np.full(shown.shape, 0.5)
    levels = np.clip(np.nan_to_num(scaled) * len(_BLOCKS), 0, len(_BLOCKS) - 1).astype(int)
    return "".join(
        _BLOCKS[level] if ok else _unusable(value, is_log)
        for level, ok, value in zip(levels, usable, shown, strict=True)
    ).rjust(width)


def with_gaps(steps: NDArray[np.int64], values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the values with a NaN put in where steps are missing, so that a hole is seen."""
    numbers = np.asarray(values, np.float64)
    return np.insert(numbers, holes(steps) + 1, np.nan)


def holes(steps: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return each i with a hole between step i and the next.

    It is one when the distance is unusual before and after it. So a change of pace is none: the past
    comes step by step, and live data as often as the screen asks for it.
    """
    distances = np.diff(steps)
    reach = 3
    return np.array(
        [
            i
            for i in range(1, len(distances) - 1)
            if distances[i] > _HOLE * np.median(distances[max(0, i - reach) : i])
            and distances[i] > _HOLE * np.median(distances[i + 1 : i + 1 + reach])
        ],
        np.intp,
    )


def _unusable(value: float, is_log: bool) -> str:
    if np.isinf(value):
        return "!"
    return _BLOCKS[0] if is_log and value == 0 else " "
