"""Two frames side by side: the numbers of both and their ratio, in the table and for one layer."""
# ruff: noqa: RUF001 - the signs are meant

import numpy as np

from gradscope_tui.store.measure import QUANTITIES, Frame
from gradscope_tui.view.cell import Cell, Line, Role, fit, text_of
from gradscope_tui.view.layout import NUMBER_CELL, RATIO_CELL
from gradscope_tui.view.numbers import short_number
from gradscope_tui.view.table import number_cell

__all__ = ["compared_line", "other_cells", "ratio_cell", "ratio_of"]

_FAR = 2.0
"""A ratio of this much, in either direction, is marked."""


def ratio_of(frame: Frame, other: Frame, name: str, quantity: str) -> float:
    """Return the number now over the other one; NaN if either was not measured or is not above zero."""
    here, there = frame.tree.find(name), other.tree.find(name)
    if here is None or there is None:
        return float("nan")
    now, then = (
        float(each.measured.values[quantity][node]) for each, node in ((frame, here), (other, there))
    )
    broken = any(
        each.measured.nan[quantity][node] + each.measured.inf[quantity][node] > 0
        for each, node in ((frame, here), (other, there))
    )
    return now / then if not broken and then > 0 and np.isfinite(now / then) else float("nan")


def other_cells(other: Frame, name: str, quantity: str) -> tuple[Cell, ...]:
    """Return the number of the other frame; a dot if it has no such layer."""
    node = other.tree.find(name)
    if node is None:
        return (Cell(fit("   ·", NUMBER_CELL), "dim"),)
    number, _ = number_cell(other, quantity, node)
    role: Role = "bad" if number.role == "bad" else "dim"
    return Cell(number.text, role), Cell(" ")


def ratio_cell(frame: Frame, other: Frame, name: str, quantity: str) -> Cell:
    """Return the ratio of now to the other frame; one of 2 or more in either direction has an arrow."""
    ratio = ratio_of(frame, other, name, quantity)
    if np.isnan(ratio):
        return Cell(fit("   ·", RATIO_CELL), "dim")
    arrow = "▲" if ratio >= _FAR else "▼" if ratio <= 1 / _FAR else " "
    role: Role = "above2" if arrow == "▲" else "below2" if arrow == "▼" else "normal"
    return Cell(fit(f"×{short_number(ratio)}{arrow}", RATIO_CELL - 1) + " ", role)


def compared_line(frame: Frame, other: Frame, name: str, words: str, width: int) -> Line:
    """Return the numbers of one layer in the other frame and now, with their ratios, as one line."""
    here = frame.tree.find(name)
    parts = []
    for quantity in QUANTITIES:
        now = _number(frame, quantity.name, here)
        then = _number(other, quantity.name, other.tree.find(name))
        if now or then:
            ratio = ratio_of(frame, other, name, quantity.name)
            how = "" if np.isnan(ratio) else f" (×{short_number(ratio)})"
            parts.append(f"{quantity.title} {then or '·'} → {now or '·'}{how}")
    text = ", ".join(parts) or "not measured in either"
    return (Cell(fit(f"compared with {words}: {text}", width), "normal"),)


def _number(frame: Frame, quantity: str, node: int | None) -> str:
    if node is None:
        return ""
    text = text_of(number_cell(frame, quantity, node)).strip().rstrip("▲▼").strip()
    return "" if text == "·" else text
