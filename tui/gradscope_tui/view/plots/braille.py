"""A plot in braille: two by four dots per cell, over a linear axis of steps.

If several steps share a column of dots, the line goes through their median, and outliers are drawn as
separate dots: noise does not fill the plot, and a single spike stays visible. No line is drawn across a
gap in the steps.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from gradscope_tui.store.gaps import gap_places

__all__ = ["Plot", "draw_plot"]

_DOT_BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]], np.uint8)
_FAR_RATIO = 2.0
_LEAST_RATIO = 2.0
"""The axis spans at least this ratio, so that noise of a few per cent does not fill the plot."""


@dataclass(frozen=True, slots=True)
class Plot:
    """`lines` from top to bottom, and the limits of both axes.

    `bad` has the columns with NaN or Inf, `zero` those with a zero, which has no place on a logarithmic scale.
    """

    lines: tuple[str, ...]
    least: float
    greatest: float
    first_step: int
    last_step: int
    bad: tuple[int, ...] = ()
    zero: tuple[int, ...] = ()

    def column_of(self, step: int, width: int) -> int | None:
        """Return the column of a step; None if it is outside the plot."""
        if not self.first_step <= step <= self.last_step:
            return None
        span = max(1, self.last_step - self.first_step)
        return min(width - 1, int((step - self.first_step) / span * (width - 1) + 0.5))


def draw_plot(
    steps: NDArray[np.int64],
    values: NDArray[np.floating],
    width: int,
    height: int,
    limits: tuple[int, int] | None = None,
) -> Plot | None:
    """Return the plot of the positive values on a logarithmic scale; None if there are none.

    `limits`: the first and last step of the axis, by default those of `steps`.
    """
    numbers = np.asarray(values, np.float64)
    usable = np.isfinite(numbers) & (numbers > 0)
    if not usable.any() or width < 2 or height < 1:
        return None
    logs = np.log(numbers, where=usable, out=np.full(numbers.shape, np.nan))
    first, last = limits or (int(steps[0]), int(steps[-1]))
    x = np.rint((steps - first) / max(1, last - first) * (2 * width - 1)).astype(int)
    columns, medians, far = _medians(x[usable], logs[usable])
    shown = np.concatenate([medians, logs[usable][far]])
    least, greatest = _log_limits(shown)
    row = partial(_dot_row, least=least, greatest=greatest, rows=4 * height)
    dots = np.zeros((4 * height, 2 * width), bool)
    dots[row(medians), columns] = True
    dots[row(logs[usable][far]), x[usable][far]] = True
    for i in _joined_columns(steps, x, usable, columns):
        _draw_line(dots, columns[i], row(medians)[i], columns[i + 1], row(medians)[i + 1])
    bad, zero = (
        tuple(sorted({int(c) // 2 for c in x[which]})) for which in (np.isinf(numbers), numbers == 0)
    )
    limits_of_values = float(np.exp(least)), float(np.exp(greatest))
    return Plot(_braille_lines(dots), *limits_of_values, first, last, bad, zero)


def _medians(
    x: NDArray[np.intp], logs: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.bool_]]:
    """Return the used columns, the median of each, and which points are outliers."""
    columns, starts, place = np.unique(x, return_index=True, return_inverse=True)
    medians = np.array([np.median(part) for part in np.split(logs, starts[1:])])
    return columns, medians, np.abs(logs - medians[place]) > np.log(_FAR_RATIO)


def _dot_row(
    logs: NDArray[np.float64], *, least: float, greatest: float, rows: int
) -> NDArray[np.intp]:
    return np.rint((greatest - logs) / (greatest - least) * (rows - 1)).astype(int)


def _log_limits(logs: NDArray[np.float64]) -> tuple[float, float]:
    least, greatest = float(np.nanmin(logs)), float(np.nanmax(logs))
    missing = float(np.log(_LEAST_RATIO)) - (greatest - least)
    if missing > 0:
        least, greatest = least - missing / 2, greatest + missing / 2
    return least, greatest


def _joined_columns(
    steps: NDArray[np.int64], x: NDArray[np.intp], usable: NDArray[np.bool_], columns: NDArray[np.intp]
) -> list[int]:
    """Return each i whose column is joined to the next one because there is no gap between them."""
    broken = {*gap_places(steps).tolist(), *np.flatnonzero(~usable[:-1] | ~usable[1:]).tolist()}
    cut = {int(c) for i in broken for c in range(x[i], x[i + 1])}
    return [i for i in range(len(columns) - 1) if not cut & set(range(columns[i], columns[i + 1]))]


def _draw_line(dots: NDArray[np.bool_], x0: int, y0: int, x1: int, y1: int) -> None:
    count = max(abs(x1 - x0), abs(y1 - y0)) + 1
    xs = np.rint(np.linspace(x0, x1, count)).astype(int)
    ys = np.rint(np.linspace(y0, y1, count)).astype(int)
    dots[ys, xs] = True


def _braille_lines(dots: NDArray[np.bool_]) -> tuple[str, ...]:
    height, width = dots.shape[0] // 4, dots.shape[1] // 2
    blocks = dots.reshape(height, 4, width, 2)
    codes = np.einsum("hawb,ab->hw", blocks.astype(np.uint8), _DOT_BITS).astype(int)
    return tuple("".join(chr(0x2800 + int(code)) if code else " " for code in row) for row in codes)
