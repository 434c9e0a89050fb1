"""One quantity over the depth of the model, on a logarithmic scale: a vanishing gradient is a slope."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from gradscope_tui.view.cell import Cell, Line, Role, cells_of, fit, printable
from gradscope_tui.view.numbers import plain_number
from gradscope_tui.view.plots.braille import draw_plot
from gradscope_tui.view.plots.trend import AXIS, curve_lines, nothing_to_plot

__all__ = ["chain_lines", "mark_line"]


def chain_lines(
    title: str,
    names: Sequence[str],
    values: NDArray[np.floating],
    chosen: int | None,
    width: int,
    height: int,
) -> list[Line]:
    """Return a title and the curve in `height` lines. `values` has one number for each layer, in order.

    NaN: not measured; such a layer has no dot. Infinity: not finite. `chosen` is the layer that is marked.
    If several layers share a column, it shows their median, and outliers as separate dots.
    """
    places = np.flatnonzero(~np.isnan(values))
    head = [Cell(title, "title"), *_ends(names, values, width - len(title))]
    columns = width - AXIS - 1
    marks: dict[int, tuple[str, Role]] = {} if chosen is None else {chosen: ("┆", "marked")}
    plot = draw_plot(places, values[places], columns, height - 1, (0, max(1, len(values) - 1)))
    if plot is None:
        return [tuple(head), nothing_to_plot(values)]
    return [tuple(head), *curve_lines(plot, marks, columns)]


def _ends(names: Sequence[str], values: NDArray[np.floating], width: int) -> Iterator[Cell]:
    """Yield which are not finite or zero, and what fits of: first and last number, the least and greatest layer."""
    finite = np.flatnonzero(np.isfinite(values) & (values > 0))
    broken = int(np.isinf(values).sum())
    if broken:
        yield Cell(f"   {broken} not finite", "above3")
    zeros = np.flatnonzero(values == 0)
    if len(zeros):
        more = f" +{len(zeros) - 1}" if len(zeros) > 1 else ""
        yield Cell(f"   zero {printable(names[int(zeros[0])])}{more}", "below3")
    if not len(finite):
        return
    low, high = (int(finite[find(values[finite])]) for find in (np.argmin, np.argmax))
    number = [plain_number(float(values[i])) for i in (finite[0], finite[-1], low, high)]
    texts = (
        f"   first {number[0]}, last {number[1]}",
        f"   least {number[2]} {printable(names[low])}",
        f"   greatest {number[3]} {printable(names[high])}",
    )
    for text in texts:
        width -= len(text)
        if width > 0:
            yield Cell(text)


def mark_line(
    layers: int, marks: Mapping[int, tuple[str, Role]], chosen: int | None, width: int
) -> Line:
    """Return the line below the curves: where findings, interventions and the chosen layer are."""
    columns = width - AXIS - 1
    line: list[tuple[str, Role]] = [("─", "dim")] * max(0, columns)
    span = max(1, layers - 1)
    shown = {**marks, **({chosen: ("▲", "marked")} if chosen is not None else {})}
    for layer, mark in shown.items():
        at = min(columns - 1, int(layer / span * (columns - 1) + 0.5))
        if 0 <= at < columns:
            line[at] = mark
    return (Cell(fit("depth", AXIS - 1) + "└", "dim"), *cells_of(line))
