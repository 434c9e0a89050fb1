"""A plot in braille: two by four dots per cell, over a linear axis of steps, of logarithms or plain numbers.

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
_FAR_PART = 0.1
"""A linear plot has outliers that are this part of its height away."""

_LEAST_RATIO = 2.0
"""The axis spans at least this ratio, so that noise of a few per cent does not fill the plot."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawn plot: its `lines` of text from top to bottom, and the limits of both axes.

    `bad` has the columns with NaN or Inf, `zero` those with a zero, which has no place on a logarithmic scale.
    """

    lines: tuple[str, ...]
    least: float
    greatest: float
    first_step: int
    last_step: int
    bad: tuple[int, ...] = ()
    zero: tuple[int, ...] = ()
    is_log: bool = True

    @property
    def middle(self) -> float:
        """The number in the middle of the axis."""
        if self.is_log:
            return float(np.sqrt(self.least * self.greatest))
        return (self.least + self.greatest) / 2

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
    *,
    is_log: bool = True,
) -> Plot | None:
    """Return the plot of the positive values on a logarithmic scale; None if there are none.

    `limits`: the first and last step of the axis, by default those of `steps`. Without `is_log`, the scale is
    linear, and all finite values are drawn.
    """
    numbers = np.asarray(values, np.float64)
    usable = np.isfinite(numbers) & ((numbers > 0) | (not is_log))
    if not usable.any() or width < 2 or height < 1:
        return None
    if is_log:
        logs = np.log(numbers, where=usable, out=np.full(numbers.shape, np.nan))
        far_from, least_span = float(np.log(_FAR_RATIO)), float(np.log(_LEAST_RATIO))
    else:
        logs = np.where(usable, numbers, np.nan)
        far_from, least_span = (
            _FAR_PART * float(np.ptp(logs[usable])),
            0.05 * float(np.abs(logs[usable]).max()),
        )
    first, last = limits or (int(steps[0]), int(steps[-1]))
    x = np.rint((steps - first) / max(1, last - first) * (2 * width - 1)).astype(int)
    columns, medians, far = _medians(x[usable], logs[usable], far_from)
    shown = np.concatenate([medians, logs[usable][far]])
    least, greatest = _limits(shown, least_span or 1.0)
    row = partial(_dot_row, least=least, greatest=greatest, rows=4 * height)
    dots = np.zeros((4 * height, 2 * width), bool)
    dots[row(medians), columns] = True
    dots[row(logs[usable][far]), x[usable][far]] = True
    xs, ys = columns.tolist(), row(medians).tolist()
    for i in _joined_columns(steps, x, usable, columns):
        _draw_line(dots, xs[i], ys[i], xs[i + 1], ys[i + 1])
    bad, zero = (
        tuple(sorted({int(c) // 2 for c in x[which]}))
        for which in (np.isinf(numbers), is_log & (numbers == 0))
    )
    if is_log:
        least, greatest = float(np.exp(least)), float(np.exp(greatest))
    return Plot(_braille_lines(dots), least, greatest, first, last, bad, zero, is_log)


def _medians(
    x: NDArray[np.intp], logs: NDArray[np.float64], far_from: float
) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.bool_]]:
    """Return the used columns, the median of each, and which points are outliers."""
    columns, starts, place, counts = np.unique(
        x, return_index=True, return_inverse=True, return_counts=True
    )
    ordered = logs[np.lexsort((logs, x))]  # `x` ascends, so `starts` are also places in this order
    medians = (ordered[starts + (counts - 1) // 2] + ordered[starts + counts // 2]) / 2
    return columns, medians, np.abs(logs - medians[place]) > far_from


def _dot_row(
    logs: NDArray[np.float64], *, least: float, greatest: float, rows: int
) -> NDArray[np.intp]:
    return np.rint((greatest - logs) / (greatest - least) * (rows - 1)).astype(int)


def _limits(logs: NDArray[np.float64], least_span: float) -> tuple[float, float]:
    least, greatest = float(np.nanmin(logs)), float(np.nanmax(logs))
    missing = least_span - (greatest - least)
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
    count = max(abs(x1 - x0), abs(y1 - y0))
    for i in range(count + 1):  # without numpy, because most lines have a few dots
        dots[y0 + round(i * (y1 - y0) / max(1, count)), x0 + round(i * (x1 - x0) / max(1, count))] = (
            True
        )


def _braille_lines(dots: NDArray[np.bool_]) -> tuple[str, ...]:
    height, width = dots.shape[0] // 4, dots.shape[1] // 2
    blocks = dots.reshape(height, 4, width, 2)
    codes = np.einsum("hawb,ab->hw", blocks.astype(np.uint8), _DOT_BITS).astype(int)
    return tuple("".join(chr(0x2800 + int(code)) if code else " " for code in row) for row in codes)
