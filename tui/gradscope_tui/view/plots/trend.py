"""The curve of one number over the steps, with its axes and marks where interventions took effect."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from gradscope_tui.view.cell import Cell, Line, Role, cells_of, fit
from gradscope_tui.view.numbers import plain_number
from gradscope_tui.view.plots.braille import Plot, draw_plot

__all__ = ["trend_lines"]

_AXIS = 9


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
    plot = draw_plot(steps, values, width - _AXIS - 1, height - 2)
    if plot is None:
        return [head, (Cell("  not measured", "dim"),)]
    return [head, *_curve_lines(plot, interventions, width - _AXIS - 1), _step_line(plot, width)]


def _curve_lines(plot: Plot, interventions: Sequence[int], width: int) -> list[Line]:
    marks = {plot.column_of(step, width) for step in interventions}
    last = len(plot.lines) - 1
    labels = {0: plain_number(plot.greatest), last: plain_number(plot.least)}
    if last >= 4:
        labels[last // 2] = plain_number(float(np.sqrt(plot.least * plot.greatest)))
    return [
        (
            Cell(labels.get(y, "").rjust(_AXIS - 1) + ("┤" if y in labels else "│"), "dim"),
            *cells_of(
                _marked(x, dots, marks, plot.bad if y == 0 else ()) for x, dots in enumerate(line)
            ),
        )
        for y, line in enumerate(plot.lines)
    ]


def _marked(
    x: int, dots: str, interventions: Collection[int | None], bad: Collection[int]
) -> tuple[str, Role]:
    """Return the dots of a column, or its mark of NaN, infinity or an intervention."""
    if x in bad:
        return "!", "bad"
    if x in interventions:
        return dots if dots != " " else "┆", "active"
    return dots, "spark"


def _step_line(plot: Plot, width: int) -> Line:
    first, last = f"{plot.first_step:,}", f"step {plot.last_step:,}"
    room = max(0, width - _AXIS - 1 - len(first) - len(last))
    return (Cell(fit(" " * _AXIS + first + " " * room + last, width), "dim"),)
