"""A map of one quantity: a line for each layer, a column for each step, higher where the number is larger."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope_tui.store.gaps import gap_places
from gradscope_tui.view.cell import Cell, Line, Role, cells_of, fit
from gradscope_tui.view.numbers import short_number

__all__ = ["LayerMap", "map_lines"]

_LEVELS: tuple[tuple[str, Role], ...] = (
    ("▁", "below3"),
    ("▂", "below2"),
    ("▃", "below1"),
    ("▄", "dim"),
    ("▅", "above1"),
    ("▆", "above2"),
    ("▇", "above3"),
)
"""From the least number to the greatest, in equal parts of the logarithm; the median is in the middle."""

_LEAST_SPAN = math.log(10.0)
"""The scale spans at least a factor of ten to each side, so that noise is one level."""

_OVERFLOW = 700.0
"""The exponential of a larger number is not finite."""


@dataclass(frozen=True, slots=True)
class LayerMap:
    """`values` has a row for each step and a column for each layer; NaN: not measured, infinity: not finite."""

    title: str
    names: tuple[str, ...]
    steps: NDArray[np.int64]
    values: NDArray[np.floating]

    def layers_per_line(self, height: int) -> int:
        """Return how many layers share a line if the drawing has `height` lines."""
        return -(-len(self.names) // max(1, height - 2))


def map_lines(shown: LayerMap, chosen: int | None, width: int, height: int) -> list[Line]:
    """Return a title with the scale, a line for each layer or group of layers, and the step numbers.

    A line of several layers shows, in each step, the number that is furthest from the median of the map. Its
    name is that of the furthest layer in the newest step.
    """
    label = max(8, min(30, width // 4))
    steps, values = _newest_that_fit(shown, width - label - 2)
    logs = _logs(values)
    finite = logs[np.isfinite(logs)]
    if not len(finite):
        return [(Cell(shown.title, "title"),), (Cell("  not measured", "dim"),)]
    middle = float(np.median(finite))
    span = max(float(np.abs(finite - middle).max()), _LEAST_SPAN)
    group = shown.layers_per_line(height)
    head = _head(shown.title, middle, span, group, width)
    lines = [head]
    for first in range(0, len(shown.names), group):
        members = logs[:, first : first + group]
        is_chosen = chosen is not None and first <= chosen < first + group
        place = chosen if chosen is not None and is_chosen else first + _furthest(members[-1], middle)
        marks = [_mark(row[_furthest(row, middle)], middle, span) for row in members]
        many = f" +{members.shape[1] - 1}" if members.shape[1] > 1 else ""
        text = fit(shown.names[place], label - len(many), keep_end=True) + many
        name = Cell(("▌" if is_chosen else " ") + text, "marked" if is_chosen else "dim")
        lines.append((name, Cell("│", "dim"), *cells_of(marks)))
    return [*lines, _step_line(steps, label + 2, width)]


def _newest_that_fit(shown: LayerMap, columns: int) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Return the newest steps that fit and their values, with an empty row at each gap."""
    columns = max(0, columns)
    steps, values = shown.steps[-columns:] if columns else shown.steps[:0], shown.values[-columns:]
    gaps = gap_places(steps)
    values = np.insert(values[len(values) - len(steps) :], gaps + 1, np.nan, axis=0)
    surplus = max(0, len(values) - columns)
    return steps[surplus:], values[surplus:]


def _logs(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return logarithms: minus infinity for zero, infinity for what is not finite, NaN for not measured."""
    numbers = np.asarray(values, np.float64)
    logs = np.full(numbers.shape, -np.inf)
    np.log(numbers, out=logs, where=numbers > 0)
    return np.where(np.isnan(numbers), np.nan, logs)


def _furthest(row: NDArray[np.float64], middle: float) -> int:
    """Return which layer of a line is furthest from the median; what is not measured is the nearest."""
    return int(np.argmax(np.where(np.isnan(row), -1.0, np.abs(row - middle))))


def _mark(log: float, middle: float, span: float) -> tuple[str, Role]:
    if np.isnan(log):
        return " ", "normal"
    if np.isinf(log):
        return ("!", "bad") if log > 0 else ("0", "below3")
    return _LEVELS[round((log - middle) / span * (len(_LEVELS) // 2)) + len(_LEVELS) // 2]


def _head(title: str, middle: float, span: float, group: int, width: int) -> Line:
    """Return title and scale, and what fits of the legend."""
    cells = [Cell(title, "title"), Cell("  ")]
    for (sign, role), log in zip(_LEVELS[::3], (middle - span, middle, middle + span), strict=True):
        number = short_number(math.exp(log)) if log < _OVERFLOW else "∞"
        cells += [Cell(f" {sign}", role), Cell(f" {number}", "dim")]
    merged = (f"   {group} layers a line: the furthest from the median", f"   {group} layers a line")
    for texts in (merged if group > 1 else (), ("   0 zero   blank not measured",)):
        left = width - sum(len(cell.text) for cell in cells)
        text = next((each for each in texts if len(each) <= left), "")
        cells.append(Cell(text, "warning" if texts is merged else "dim"))
    return tuple(cells)


def _step_line(steps: NDArray[np.int64], before: int, width: int) -> Line:
    first, last = f"{steps[0]:,}", f"step {steps[-1]:,}"
    room = max(2, len(steps) + len(gap_places(steps)) - len(first) - len(last))
    return (Cell(fit(" " * before + first + " " * room + last, width), "dim"),)
