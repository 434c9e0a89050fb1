"""Tables whose columns are as wide as their content."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len

from gradscope_tui.view.cell import Cell, Line, fit, printable

__all__ = ["TextColumn", "in_columns"]

_GAP = 2


@dataclass(frozen=True, slots=True)
class TextColumn:
    """A column. If the table is too wide, columns shrink to `least` cells in ascending order of `rank`.

    A column whose `least` is 0 is shown in full or not at all. The last column gets the width that is left.
    """

    title: str
    least: int
    rank: int
    keep_end: bool = False


def in_columns(
    columns: Sequence[TextColumn], rows: Sequence[Line], width: int
) -> tuple[list[Line], Line]:
    """Return the rows, which have a cell for each column, and the line of titles; both fit the width."""
    widths = _widths(columns, rows, width - 1)
    titles = "".join(fit(column.title, each) for column, each in zip(columns, widths, strict=True))
    lines = [
        tuple(
            Cell(fit(cell.text, each - _GAP, keep_end=column.keep_end) + " " * _GAP, cell.role)
            for column, cell, each in zip(columns, row, widths, strict=True)
            if each
        )
        for row in rows
    ]
    return lines, (Cell(" " + titles, "header"),)


def _widths(columns: Sequence[TextColumn], rows: Sequence[Line], width: int) -> list[int]:
    """Return the widths of the columns with the gaps after them; their sum is at most `width`."""
    widths = [
        max([len(column.title), *(cell_len(printable(row[place].text)) for row in rows)]) + _GAP
        for place, column in enumerate(columns)
    ]
    last = widths[-1]
    for place in sorted(range(len(columns)), key=lambda each: columns[each].rank):
        too_much = max(0, sum(widths) - width)
        if too_much and not columns[place].least:
            widths[place] = 0
        elif too_much:
            least = min(widths[place], columns[place].least)
            widths[place] = max(least, widths[place] - too_much)
    left = width - sum(widths[:-1])
    if left >= last or columns[-1].least:
        widths[-1] = max(0, min(last, left))
    return widths
