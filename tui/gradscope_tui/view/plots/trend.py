"""The curve of one number over the steps, with its axes and marks where interventions took effect."""

from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from gradscope_tui.view.cell import Cell, Line, Role, cells_of, fit
from gradscope_tui.view.numbers import plain_number
from gradscope_tui.view.plots.braille import Plot, draw_plot

__all__ = ["AXIS", "curve_lines", "nothing_to_plot", "trend_lines"]

AXIS = 9
"""The width of the numbers at the left."""


def trend_lines(
    title: str,
    steps: NDArray[np.int64],
    values: NDArray[np.floating],
    marks: Mapping[int, tuple[str, Role]],
    width: int,
    height: int,
    *,
    is_log: bool = True,
) -> list[Line]:
    """Return a title with the newest value, the curve, and the step numbers.

    `marks` has the sign of each marked step, such as one at which an intervention took effect.
    """
    newest = values[-1] if len(values) else np.nan
    now = f"  {plain_number(float(newest))}" if np.isfinite(newest) else ""
    head: Line = (Cell(title, "title"), Cell(now))
    plot = draw_plot(steps, values, width - AXIS - 1, height - 2, is_log=is_log)
    if plot is None:
        return [head, nothing_to_plot(values)]
    return [head, *curve_lines(plot, marks, width - AXIS - 1), _step_line(plot, width)]


def curve_lines(plot: Plot, marks: Mapping[int, tuple[str, Role]], width: int) -> list[Line]:
    """Return the lines of a plot with its axis. A marked step has its sign at the top, and a line below it."""
    columns = {plot.column_of(step, width): mark for step, mark in marks.items()}
    last = len(plot.lines) - 1
    labels = {0: plain_number(plot.greatest), last: plain_number(plot.least)}
    if last >= 4:
        labels[last // 2] = plain_number(plot.middle)
    lines: list[Line] = []
    for y, line in enumerate(plot.lines):
        bad, zero = plot.bad if y == 0 else (), plot.zero if y == last else ()
        axis = labels.get(y, "").rjust(AXIS - 1) + ("┤" if y in labels else "│")
        shown = (_marked(x, dots, columns, bad, zero, is_top=y == 0) for x, dots in enumerate(line))
        lines.append((Cell(axis, "dim"), *cells_of(shown)))
    return lines


def nothing_to_plot(values: NDArray[np.floating]) -> Line:
    """Return the line below the title if no number is finite and above zero."""
    zeros, broken = int((values == 0).sum()), int(np.isinf(values).sum())
    words = [f"zero in {zeros:,}"] if zeros else []
    words += [f"not finite in {broken:,}"] if broken else []
    return (
        Cell("  " + ", ".join(words), "below3" if zeros else "bad")
        if words
        else Cell("  not measured", "dim"),
    )


def _marked(
    x: int,
    dots: str,
    marks: Mapping[int | None, tuple[str, Role]],
    bad: Collection[int],
    zero: Collection[int],
    *,
    is_top: bool,
) -> tuple[str, Role]:
    """Return the dots of a column, or its mark of NaN, infinity, zero or a marked step."""
    if x in bad:
        return "!", "bad"
    if x in zero:
        return "0", "below3"
    if x in marks:
        sign, role = marks[x]
        return sign if is_top else dots if dots != " " else "┆", role
    return dots, "spark"


def _step_line(plot: Plot, width: int) -> Line:
    first, last = f"{plot.first_step:,}", f"step {plot.last_step:,}"
    room = max(0, width - AXIS - 1 - len(first) - len(last))
    return (Cell(fit(" " * AXIS + first + " " * room + last, width), "dim"),)
