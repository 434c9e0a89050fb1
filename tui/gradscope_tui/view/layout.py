"""The columns of the layer table for a width, and the width of each.

Columns are added in the order of their rank while their least width fits. The remaining width goes to
the columns in `_GROWS`.
"""

from dataclasses import dataclass
from typing import Literal

from gradscope_tui.store.measure import QUANTITIES
from gradscope_tui.view.numbers import NUMBER_WIDTH

__all__ = ["GUTTER", "NUMBER_CELL", "RATIO_CELL", "Column", "Layout", "choose_columns"]

GUTTER = 3
"""The width of cursor, mark and intervention sign."""

RATIO_CELL = 9
"""A ratio with the sign before it and the arrow after it."""

NUMBER_CELL = NUMBER_WIDTH + 2
"""A number with the sign before it (how it was measured) and the arrow after it (unusual)."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column, from `least` to `most` cells wide. Columns with rank 0 are always shown."""

    name: str
    title: str
    least: int
    most: int
    rank: int
    kind: Literal["name", "type", "number", "other", "ratio", "trend", "intervention"]

    @property
    def quantity(self) -> str:
        """The quantity of a column of numbers or ratios."""
        return self.name.partition(":")[0]


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


_COMPARED_NAME = 17


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns from left to right with their widths; with the gutter they fill `width`."""

    width: int
    columns: tuple[tuple[Column, int], ...]


def choose_columns(width: int, *, is_compared: bool = False) -> Layout:
    """Return the columns for a terminal of that width. is_compared: each number with another one and the ratio."""
    if is_compared:
        return _compared_columns(width)
    left = width - GUTTER
    chosen: dict[str, int] = {}
    for column in sorted(_COLUMNS, key=lambda c: c.rank):
        if column.rank and column.least > left:
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


def _compared_columns(width: int) -> Layout:
    """Return as many quantities as fit, in the order of their ranks: now, then, ratio. The ratio is the last to go."""
    left = width - GUTTER - _COMPARED_NAME
    chosen: list[tuple[Column, int]] = []
    numbers = sorted((c for c in _COLUMNS if c.kind == "number"), key=lambda c: c.rank)
    for column in numbers:
        parts = (
            (column, NUMBER_CELL),
            (Column(f"{column.name}:other", "then", 0, 0, 0, "other"), NUMBER_CELL),
            (Column(f"{column.name}:ratio", "ratio", 0, 0, 0, "ratio"), RATIO_CELL),
        )
        needed = sum(part_width for _, part_width in parts)
        if chosen and needed > left:
            break
        chosen += parts
        left -= needed
    name = max(1, _COMPARED_NAME + left)
    return Layout(width, ((_COLUMNS[0], name), *chosen))
