"""Sparklines: a row of blocks, one per step, on a logarithmic scale between the least and the greatest.

A missing number is a blank, a nonfinite one an exclamation mark, so that neither looks like a low number.
"""

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["sparkline"]

_BLOCKS = "▁▂▃▄▅▆▇"
"""Without the full block, which would touch the line above."""

_LEAST_LOG_SPAN = math.log(2.0)
"""The scale spans at least a factor of two, so that noise stays low and a real change is visible."""

_LEAST_SPAN = 0.05
"""A linear scale spans at least this fraction of the number."""


def sparkline(values: NDArray[np.floating], width: int, *, is_log: bool = True) -> str:
    """Return the newest `width` values as blocks, right-aligned in `width` cells."""
    shown: list[float] = values[-width:].tolist() if width else []
    heights = [_height(value, is_log=is_log) for value in shown]
    known = [height for height in heights if height is not None]
    if not known:
        return "".join("!" if math.isinf(value) else " " for value in shown).rjust(width)
    least, greatest = min(known), max(known)
    span = greatest - least
    least_span = _LEAST_LOG_SPAN if is_log else _LEAST_SPAN * max(abs(greatest), abs(least))
    if span < least_span:
        least, span = (least + greatest - least_span) / 2, least_span
    return "".join(
        _unusable(value, is_log=is_log) if height is None else _block(height, least, span)
        for height, value in zip(heights, shown, strict=True)
    ).rjust(width)


def _height(value: float, *, is_log: bool) -> float | None:
    if not math.isfinite(value) or (is_log and value <= 0):
        return None
    return math.log(value) if is_log else value


def _block(height: float, least: float, span: float) -> str:
    part = (height - least) / span if span > 0 else 0.5
    return _BLOCKS[min(len(_BLOCKS) - 1, int(part * len(_BLOCKS)))]


def _unusable(value: float, *, is_log: bool) -> str:
    if math.isinf(value):
        return "!"
    return _BLOCKS[0] if is_log and value == 0 else " "
