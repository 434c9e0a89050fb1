"""A captured tensor element by element: a plane of two of its dimensions, and the slice of the others."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope_tui.view.cell import Cell, Line, Role, cells_of
from gradscope_tui.view.numbers import plain_number

__all__ = ["ELEMENT", "Plane", "element_text", "map_lines", "plane_of", "plane_text", "scale_of"]

ELEMENT = 2
"""The width of an element: its sign and its magnitude."""

_SHADES = "·░▒▓█"
_ABOVE: tuple[Role, ...] = ("dim", "above1", "above1", "above2", "above3")
_BELOW: tuple[Role, ...] = ("dim", "below1", "below1", "below2", "below3")


@dataclass(frozen=True, slots=True)
class Plane:
    """Which two dimensions are shown, and the index of every other one.

    `index` has a number for each dimension; those of `rows` and `columns` are not used. `chosen` is the dimension whose
    index the person changes; None if there is none.
    """

    shape: tuple[int, ...]
    rows: int
    columns: int
    index: tuple[int, ...]
    chosen: int | None = None

    @property
    def others(self) -> tuple[int, ...]:
        """The dimensions that are not shown."""
        return tuple(d for d in range(len(self.shape)) if d not in (self.rows, self.columns))

    def moved(self, by: int) -> "Plane":
        """Return the plane at the next index of the chosen dimension."""
        if self.chosen is None:
            return self
        at = (self.index[self.chosen] + by) % self.shape[self.chosen]
        index = (*self.index[: self.chosen], at, *self.index[self.chosen + 1 :])
        return replace(self, index=index)

    def with_next_chosen(self) -> "Plane":
        """Return the plane with the next dimension to change."""
        others = self.others
        if self.chosen is None or len(others) < 2:
            return self
        return replace(self, chosen=others[(others.index(self.chosen) + 1) % len(others)])

    def turned(self) -> "Plane":
        """Return the plane of the next two dimensions, all pairs in turn."""
        pairs = list(combinations(range(len(self.shape)), 2))
        rows, columns = pairs[pairs.index((self.rows, self.columns)) - 1]
        turned = replace(self, rows=rows, columns=columns)
        return replace(turned, chosen=next(iter(turned.others), None))


def plane_of(array: NDArray[Any]) -> Plane:
    """Return the plane of the last two dimensions. A tensor of fewer than two dimensions counts as one row."""
    shape = array.shape if array.ndim >= 2 else (1, *(array.shape or (1,)))
    count = len(shape)
    return Plane(shape, count - 2, count - 1, (0,) * count, 0 if count > 2 else None)


def scale_of(array: NDArray[Any]) -> float:
    """Return the largest finite magnitude of the whole tensor, so that slices can be compared; 1 if all are zero."""
    sizes = np.abs(array)
    finite = sizes[np.isfinite(sizes)]
    return float(finite.max()) if finite.size and finite.max() > 0 else 1.0


def _numbers(array: NDArray[Any], plane: Plane) -> NDArray[Any]:
    whole = array.reshape(plane.shape)
    where = tuple(
        slice(None) if d in (plane.rows, plane.columns) else at for d, at in enumerate(plane.index)
    )
    return whole[where]


def map_lines(
    array: NDArray[Any], plane: Plane, scale: float, cursor: tuple[int, int], width: int, height: int
) -> list[Line]:
    """Return the part of the plane that fits, with the element at `cursor` in it: sign and shade of each element.

    The cursor is in the middle if there is more on all sides. Below zero has a minus; NaN is `!`, infinity `∞`.
    """
    numbers = _numbers(array, plane)
    margin = len(str(plane.shape[plane.rows] - 1)) + 1
    across = max(1, (width - margin) // ELEMENT)
    top, left = (
        max(0, min(at - room // 2, size - room))
        for at, room, size in zip(cursor, (height, across), numbers.shape, strict=True)
    )
    shown = numbers[top : top + height, left : left + across]
    return [
        (
            Cell(f"{top + y:>{margin - 1}} ", "dim"),
            *cells_of(_characters(row, scale, cursor[1] - left if top + y == cursor[0] else -1)),
        )
        for y, row in enumerate(shown)
    ]


def _characters(row: NDArray[Any], scale: float, at: int) -> Iterator[tuple[str, Role]]:
    for x, value in enumerate(row.tolist()):
        size = abs(value)
        is_below = not isinstance(value, complex) and value < 0
        sign = "-" if is_below else " "
        if math.isnan(size):
            text, role = " !", "bad"
        elif math.isinf(size):
            text, role = f"{sign}∞", "bad"
        else:
            level = 0 if size == 0 else max(1, min(4, round(size / scale * 4)))
            text, role = sign + _SHADES[level], (_BELOW if is_below else _ABOVE)[level]
        yield text, "chosen" if x == at else role  # type: ignore[misc]  # a role of the tables above


def plane_text(plane: Plane) -> str:
    """Return which dimensions are shown, and the indices of the others."""
    if plane.shape[plane.rows] == 1 and len(plane.shape) == 2:
        return f"{plane.shape[plane.columns]:,} elements"
    text = (
        f"rows: dim {plane.rows} ({plane.shape[plane.rows]:,}), "
        f"columns: dim {plane.columns} ({plane.shape[plane.columns]:,})"
    )
    for d in plane.others:
        mark = "▶" if d == plane.chosen else ""
        text += f"   {mark}dim {d}: {plane.index[d]} of {plane.shape[d]:,}"
    return text


def element_text(array: NDArray[Any], plane: Plane, cursor: tuple[int, int]) -> str:
    """Return index and value of an element."""
    index = list(plane.index)
    index[plane.rows], index[plane.columns] = cursor
    value = _numbers(array, plane)[cursor]
    shown = index if array.ndim >= 2 else index[1:] if array.ndim else []
    if np.iscomplexobj(array):
        number = f"{complex(value):.4g}"
    else:
        number = plain_number(float(value)) if np.isfinite(value) else str(float(value))
    return f"[{', '.join(map(str, shown))}] = {number}"
