"""The curve of one number over the steps, with its axes and marks where interventions took effect."""

from collections.abc import Collection, Sequence

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
    interventions: Sequence[int],
    width: int,
    height: int,
) -> list[Line]:
    """Return a title with the newest value, the curve, and the step numbers.

    `interventions` are the steps at which an intervention took effect.
    """
    newest = values[-1] if len(values) else np.nan
    now = f"  {plain_number(float(newest))}" if np.isfinite(newest) else ""
    head: Line = (Cell(title, "title"), Cell(now))
    plot = draw_plot(steps, values, width - AXIS - 1, height - 2)
    if plot is None:
        return [head, nothing_to_plot(values)]
    return [head, *curve_lines(plot, interventions, width - AXIS - 1), _step_line(plot, width)]


def curve_lines(plot: Plot, marked: Sequence[int], width: int, role: Role = "active") -> list[Line]:
    """Return the lines of a plot with its axis; `role` is that of the columns of the marked steps."""
    marks = {plot.column_of(step, width) for step in marked}
    last = len(plot.lines) - 1
    labels = {0: plain_number(plot.greatest), last: plain_number(plot.least)}
    if last >= 4:
        labels[last // 2] = plain_number(float(np.sqrt(plot.least * plot.greatest)))
    lines: list[Line] = []
    for y, line in enumerate(plot.lines):
        bad, zero = plot.bad if y == 0 else (), plot.zero if y == last else ()
        axis = labels.get(y, "").rjust(AXIS - 1) + ("┤" if y in labels else "│")
        shown = (_marked(x, dots, marks, bad, zero, role) for x, dots in enumerate(line))
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
    marks: Collection[int | None],
    bad: Collection[int],
    zero: Collection[int],
    role: Role,
) -> tuple[str, Role]:
    """Return the dots of a column, or its mark of NaN, infinity, zero or a marked step."""
    if x in bad:
        return "!", "bad"
    if x in zero:
        return "0", "below3"
    if x in marks:
        return dots if dots != " " else "┆", role
    return dots, "spark"


def _step_line(plot: Plot, width: int) -> Line:
    first, last = f"{plot.first_step:,}", f"step {plot.last_step:,}"
    room = max(0, width - AXIS - 1 - len(first) - len(last))
    return (Cell(fit(" " * AXIS + first + " " * room + last, width), "dim"),)
