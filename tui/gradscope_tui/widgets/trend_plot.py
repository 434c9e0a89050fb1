"""`TrendPlot` shows one number over the steps, in braille, and marks when interventions took effect."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rich.segment import Segment
from textual.strip import Strip

from gradscope_tui.view.cell import Cell, Role, fit
from gradscope_tui.view.numbers import plain_number
from gradscope_tui.view.plots.braille import Plot, draw_plot
from gradscope_tui.widgets.cell_strip import CellWidget

__all__ = ["TrendPlot"]

_AXIS = 9


class TrendPlot(CellWidget):
    """A title, the plot with its axis, and the step numbers."""

    def __init__(self) -> None:
        super().__init__()
        self._title = ""
        self._steps: NDArray[np.int64] = np.empty(0, np.int64)
        self._values: NDArray[np.floating] = np.empty(0)
        self._changes: tuple[int, ...] = ()
        self._lines: list[tuple[Cell, ...]] | None = None

    def show(
        self,
        title: str,
        steps: NDArray[np.int64],
        values: NDArray[np.floating],
        changes: Sequence[int] = (),
    ) -> None:
        """Show these numbers. `changes` are the steps at which an intervention took effect."""
        self._title, self._steps, self._values = title, steps, values
        self._changes = tuple(changes)
        self._lines = None
        self.refresh()

    def on_resize(self) -> None:
        """Redraw for the new size."""
        self._lines = None

    def render_line(self, y: int) -> Strip:
        """Draw line `y` of the title, the plot and the step numbers."""
        if self._lines is None:
            self._lines = self._draw(self.size.width, self.size.height)
        if y >= len(self._lines):
            return Strip([Segment(" " * self.size.width, self.rich_style)])
        return self.strip_of(self._lines[y], self.size.width, self.rich_style)

    def _draw(self, width: int, height: int) -> list[tuple[Cell, ...]]:
        newest = self._values[-1] if len(self._values) else np.nan
        now = f"  {plain_number(float(newest))}" if np.isfinite(newest) else ""
        title: tuple[Cell, ...] = (Cell(f"{self._title}", "title"), Cell(now))
        plot = draw_plot(self._steps, self._values, width - _AXIS - 1, height - 2)
        if plot is None:
            return [title, (Cell(" " * 2 + "not measured", "dim"),)]
        return [title, *self._plot_lines(plot, width - _AXIS - 1), self._step_line(plot, width)]

    def _plot_lines(self, plot: Plot, width: int) -> list[tuple[Cell, ...]]:
        columns = {plot.column_of(step, width) for step in self._changes} - {None}
        last = len(plot.lines) - 1
        middle = plain_number(float(np.sqrt(plot.least * plot.greatest)))
        labels = {0: plain_number(plot.greatest), last: plain_number(plot.least)}
        if last >= 4:
            labels[last // 2] = middle
        lines = []
        for y, line in enumerate(plot.lines):
            axis = Cell(labels.get(y, "").rjust(_AXIS - 1) + ("┤" if y in labels else "│"), "dim")
            lines.append((axis, *_over(line, columns, set(plot.bad) if y == 0 else set())))
        return lines

    def _step_line(self, plot: Plot, width: int) -> tuple[Cell, ...]:
        first, last = f"{plot.first_step:,}", f"step {plot.last_step:,}"
        room = max(0, width - _AXIS - 1 - len(first) - len(last))
        return (Cell(fit(" " * _AXIS + first + " " * room + last, width), "dim"),)


def _over(line: str, changes: set[int | None], bad: set[int]) -> list[Cell]:
    """Return a line of the plot with the marks of NaN, infinity and interventions."""
    cells: list[Cell] = []
    for x, dots in enumerate(line):
        role: Role = "bad" if x in bad else ("active" if x in changes else "spark")
        text = "!" if x in bad else ("┆" if x in changes and dots == " " else dots)
        if cells and cells[-1].role == role:
            cells[-1] = Cell(cells[-1].text + text, role)
        else:
            cells.append(Cell(text, role))
    return cells
