"""Which columns the table has at which width, and how wide each is.

Columns come in the order of their worth as long as their least width fits; what is left over goes to
those that can use it. Below the first two the table is a list of names.
"""

from dataclasses import dataclass
from typing import Literal

from gradscope_tui.store import QUANTITIES
from gradscope_tui.view.numbers import NUMBER_WIDTH

__all__ = ["GUTTER", "NUMBER_CELL", "Column", "Layout", "choose_columns"]

GUTTER = 3
"""The cursor, the mark and the sign of an intervention."""

NUMBER_CELL = NUMBER_WIDTH + 2
"""A sign before a number says how it was measured, an arrow after it that it is unusual."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its width grows from `least` to `most`. `worth` 0 is there always."""

    name: str
    title: str
    least: int
    most: int
    worth: int
    kind: Literal["name", "type", "number", "trend", "intervention"]


_TITLES = {quantity.name: quantity.title for quantity in QUANTITIES}

_COLUMNS: tuple[Column, ...] = (
    Column("name", "layer", 17, 44, 0, "name"),
    Column("type", "type", 13, 19, 5, "type"),
    Column("out_std", _TITLES["out_std"], NUMBER_CELL, NUMBER_CELL, 2, "number"),
    Column("grad_norm", _TITLES["grad_norm"], NUMBER_CELL, NUMBER_CELL, 0, "number"),
    Column("param_grad_norm", _TITLES["param_grad_norm"], NUMBER_CELL, NUMBER_CELL, 6, "number"),
    Column("update_ratio", _TITLES["update_ratio"], NUMBER_CELL, NUMBER_CELL, 1, "number"),
    Column("trend", "trend ‖∇‖", 10, 25, 4, "trend"),
    Column("intervention", "intervention", 12, 24, 3, "intervention"),
)

_GROWS = (
    ("name", 30),
    ("trend", 17),
    ("intervention", 15),
    ("name", 44),
    ("trend", 25),
    ("intervention", 24),
)


@dataclass(frozen=True, slots=True)
class Layout:
    """The chosen columns from left to right with their widths; with the gutter they fill `width`."""

    width: int
    columns: tuple[tuple[Column, int], ...]

    def width_of(self, name: str) -> int:
        """Return a column's width, 0 where it is not shown."""
        return next((width for column, width in self.columns if column.name == name), 0)


def choose_columns(width: int) -> Layout:
    """Return the columns for a terminal of that width."""
    left = width - GUTTER
    chosen: dict[str, int] = {}
    for column in sorted(_COLUMNS, key=lambda c: c.worth):
        if column.worth and column.least > left:
            break
        chosen[column.name] = column.least
        left -= column.least
    most = {column.name: column.most for column in _COLUMNS}
    for name, limit in _GROWS:
        if name in chosen:
            grown = max(0, min(left, min(limit, most[name]) - chosen[name]))
            chosen[name] += grown
            left -= grown
    chosen["name"] = max(1, chosen["name"] + left)
    return Layout(width, tuple((c, chosen[c.name]) for c in _COLUMNS if c.name in chosen))
