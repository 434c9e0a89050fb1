"""A plot in braille: two by four dots a cell, over the true axis of steps.

Steps that follow one another are joined; over a hole no line is drawn.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Plot", "draw_plot"]

_DOT_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], np.uint8)
_HOLE = 3.0
_LEAST_RATIO = 1.2
"""The axis spans at least this ratio, so that noise of a per cent does not fill the picture."""


@dataclass(frozen=True, slots=True)
class Plot:
    """`lines` from top to bottom, and what its borders mean. `bad` are the columns with NaN or Inf."""

    lines: tuple[str, ...]
    least: float
    greatest: float
    first_step: int
    last_step: int
    bad: tuple[int, ...] = ()

    def column_of(self, step: int, width: int) -> int | None:
        """Return the column of a step, or None outside of the plot."""
        if not self.first_step <= step <= self.last_step:
            return None
        span = max(1, self.last_step - self.first_step)
        return min(width - 1, int((step - self.first_step) / span * (width - 1) + 0.5))


def draw_plot(
    steps: NDArray[np.int64], values: NDArray[np.floating], width: int, height: int
) -> Plot | None:
    """Return the plot of positive values on a logarithmic scale; None where there is nothing to draw."""
    numbers = np.asarray(values, np.float64)
    usable = np.isfinite(numbers) & (numbers > 0)
    if not usable.any() or width < 2 or height < 1:
        return None
    logs = np.log(numbers, where=usable, out=np.full(numbers.shape, np.nan))
    least, greatest = _range(logs)
    first, last = int(steps[0]), int(steps[-1])
    x = np.rint((steps - first) / max(1, last - first) * (2 * width - 1)).astype(int)
    y = np.rint((greatest - np.nan_to_num(logs)) / (greatest - least) * (4 * height - 1)).astype(int)
    dots = np.zeros((4 * height, 2 * width), bool)
    dots[y[usable], x[usable]] = True
    for i in _joined(steps, usable):
        _line(dots, x[i], y[i], x[i + 1], y[i + 1])
    bad = tuple(sorted({int(c) // 2 for c in x[np.isinf(numbers)]}))
    return Plot(_cells(dots), float(np.exp(least)), float(np.exp(greatest)), first, last, bad)


def _range(logs: NDArray[np.float64]) -> tuple[float, float]:
    least, greatest = float(np.nanmin(logs)), float(np.nanmax(logs))
    missing = float(np.log(_LEAST_RATIO)) - (greatest - least)
    if missing > 0:
        least, greatest = least - missing / 2, greatest + missing / 2
    return least, greatest


def _joined(steps: NDArray[np.int64], usable: NDArray[np.bool_]) -> list[int]:
    """Return each i whose point is to be joined with the next."""
    distances = np.diff(steps)
    usual = np.median(distances) if len(distances) else 1.0
    return np.flatnonzero((distances <= _HOLE * usual) & usable[:-1] & usable[1:]).tolist()


def _line(dots: NDArray[np.bool_], x0: int, y0: int, x1: int, y1: int) -> None:
    count = max(abs(x1 - x0), abs(y1 - y0)) + 1
    xs = np.rint(np.linspace(x0, x1, count)).astype(int)
    ys = np.rint(np.linspace(y0, y1, count)).astype(int)
    dots[ys, xs] = True


def _cells(dots: NDArray[np.bool_]) -> tuple[str, ...]:
    height, width = dots.shape[0] // 4, dots.shape[1] // 2
    blocks = dots.reshape(height, 4, width, 2)
    codes = np.einsum("hawb,ab->hw", blocks.astype(np.uint8), _DOT_BITS).astype(int)
    return tuple("".join(chr(0x2800 + int(code)) if code else " " for code in row) for row in codes)
