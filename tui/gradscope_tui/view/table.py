"""The cells of the layer table, one row per layer, for the screen and for plain text."""
# ruff: noqa: RUF001 - the signs are meant

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from gradscope.columns import Flags
from gradscope.protocol import InterventionState
from gradscope_tui.store.measure import Frame
from gradscope_tui.view.cell import Cell, Role, fit
from gradscope_tui.view.intervention_text import intervention_in_words
from gradscope_tui.view.layout import NUMBER_CELL, Layout
from gradscope_tui.view.numbers import aligned, count
from gradscope_tui.view.plots.sparkline import sparkline
from gradscope_tui.view.rows import Listing, RowOrder

__all__ = ["TableView", "by_layer", "header_cells", "number_cell", "row_cells"]

_HOT: tuple[Role, ...] = ("normal", "above1", "above2", "above3", "below3", "below2", "below1")
"""Indexed by the heat: -1 is the last."""


@dataclass(frozen=True, slots=True)
class TableView:
    """The content of the table. `folded` and `marked` are names of layers."""

    frame: Frame
    listing: Listing
    order: RowOrder
    layout: Layout
    interventions: Mapping[str, tuple[InterventionState, ...]] = field(default_factory=dict)
    folded: Collection[str] = frozenset()
    marked: Collection[str] = frozenset()


def by_layer(states: Collection[InterventionState]) -> dict[str, tuple[InterventionState, ...]]:
    """Return the interventions of each layer, by name."""
    found: dict[str, tuple[InterventionState, ...]] = {}
    for state in states:
        for layer in state.layers:
            found[layer] = (*found.get(layer, ()), state)
    return found


def header_cells(view: TableView) -> tuple[Cell, ...]:
    """Return the column titles; the sorted column has an arrow."""
    arrow = "▲" if view.order.is_ascending else "▼"
    cells = [Cell(" " * 3, "header")]
    for column, width in view.layout.columns:
        title = f"{column.title} {arrow}" if column.name == view.order.sort else column.title
        indent = "  " if column.kind == "number" else ""
        cells.append(Cell(fit(indent + title, width), "header"))
    return tuple(cells)


def row_cells(view: TableView, row: int) -> tuple[Cell, ...]:
    """Return the cells of one row, which fill the layout's width except for the cell of the cursor."""
    node = view.listing.nodes[row]
    cells = [_mark_cell(view, node), _intervention_sign(view, node)]
    for column, width in view.layout.columns:
        if column.kind == "name":
            cells.extend(_name_cells(view, node, width))
        elif column.kind == "type":
            cells.append(Cell(fit(view.frame.tree.layers[node].type, width - 1) + " ", "dim"))
        elif column.kind == "number":
            cells.extend(number_cell(view.frame, column.name, node))
        elif column.kind == "trend":
            cells.append(Cell(sparkline(view.frame.trend[:, node], width - 1) + " ", "spark"))
        else:
            cells.append(_intervention_cell(view, node, width))
    return tuple(cells)


def number_cell(frame: Frame, quantity: str, node: int) -> tuple[Cell, Cell]:
    """Return a quantity's number with its signs, in NUMBER_CELL cells."""
    measured = frame.measured
    for counts, word in ((measured.nan, "NaN"), (measured.inf, "Inf")):
        if counts[quantity][node] > 0:
            text = f" {word} {count(float(counts[quantity][node]))}"
            return Cell(fit(text, NUMBER_CELL - 1), "bad"), Cell(" ", "bad")
    value, flags = float(measured.values[quantity][node]), Flags(int(measured.flags[quantity][node]))
    if np.isnan(value):
        return Cell(fit("   ·", NUMBER_CELL - 1), "dim"), Cell(" ")
    sign, role = _sign_of_measurement(flags)
    if np.isinf(value):
        return Cell(fit(f"{sign}overflow", NUMBER_CELL - 1), "bad"), Cell(" ", "bad")
    heat = int(frame.heat[quantity][node])
    arrow = ("▲" if heat > 0 else "▼") if abs(heat) >= 2 else " "
    hot = _HOT[heat] if heat else role
    return Cell(sign + aligned(value), hot), Cell(arrow, hot)


def _sign_of_measurement(flags: Flags) -> tuple[str, Role]:
    """Return the sign for how a number was measured, and its role. An exact number has no sign."""
    if Flags.DIFFERS in flags:
        return "≠", "bad"
    if Flags.SCALED in flags:
        return "×", "sampled"
    if Flags.SAMPLED in flags:
        return "~", "sampled"
    if Flags.MERGED in flags:
        return "Σ", "merged"
    return " ", "normal"


def _mark_cell(view: TableView, node: int) -> Cell:
    is_marked = view.frame.tree.layers[node].name in view.marked
    return Cell("●" if is_marked else " ", "marked" if is_marked else "normal")


def _intervention_sign(view: TableView, node: int) -> Cell:
    """Return the sign of an intervention in this layer, or in layers folded below it."""
    nodes = (node, *_folded_nodes(view, node))
    states = [s for n in nodes for s in view.interventions.get(view.frame.tree.layers[n].name, ())]
    if not states:
        return Cell(" ")
    is_active = any(state.active_since is not None for state in states)
    return Cell("◆" if is_active else "◇", "active" if is_active else "pending")


def _folded_nodes(view: TableView, node: int) -> tuple[int, ...]:
    tree = view.frame.tree
    is_folded = not view.listing.is_flat and tree.layers[node].name in view.folded
    return tree.below(node) if is_folded else ()


def _name_cells(view: TableView, node: int, width: int) -> tuple[Cell, ...]:
    tree = view.frame.tree
    width -= 1
    if view.listing.is_flat:
        name = tree.layers[node].name or tree.label[node]
        return (Cell(fit(name, width, keep_end=True) + " "),)
    is_container = tree.is_container(node)
    hidden = _folded_nodes(view, node)
    fold = ("▸ " if hidden else "▾ ") if is_container else "  "
    start = "  " * min(tree.depth[node], max(0, (width - 10) // 2)) + fold
    note, role = _folded_note(view.frame, hidden)
    label = fit(tree.label[node], max(1, width - len(start) - len(note)))
    return (
        Cell(start, "dim"),
        Cell(label, "container" if is_container else "normal"),
        Cell(fit(note, max(0, width - len(start) - len(label))) + " ", role),
    )


def _folded_note(frame: Frame, hidden: tuple[int, ...]) -> tuple[str, Role]:
    """Return a note on the layers in a folded container."""
    if not hidden:
        return "", "dim"
    broken = int(np.count_nonzero(frame.is_nonfinite()[list(hidden)]))
    return (f" {broken} not finite", "bad") if broken else (f" +{len(hidden)}", "dim")


def _intervention_cell(view: TableView, node: int, width: int) -> Cell:
    states = view.interventions.get(view.frame.tree.layers[node].name, ())
    if not states:
        return Cell(" " * width)
    first = states[0]
    more = f" +{len(states) - 1}" if len(states) > 1 else ""
    pending = "" if first.active_since is not None else "…"
    role: Role = "pending" if pending else "active"
    return Cell(fit(intervention_in_words(first) + pending + more, width), role)
