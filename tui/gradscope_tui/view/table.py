"""The cells of the layer table, one row per layer, for the screen and for plain text."""
# ruff: noqa: RUF001 - the signs are meant

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from gradscope.columns import Flags
from gradscope.names import counted
from gradscope.protocol import InterventionState
from gradscope_tui.store.layers import LayerTree
from gradscope_tui.store.measure import QUANTITIES, Frame
from gradscope_tui.store.repeats import Spread
from gradscope_tui.view.cell import Cell, Role, fit
from gradscope_tui.view.intervention_text import intervention_in_words
from gradscope_tui.view.layout import NUMBER_CELL, Column, Layout
from gradscope_tui.view.numbers import aligned, count, short_number
from gradscope_tui.view.plots.sparkline import sparkline
from gradscope_tui.view.rows import Listing, RowOrder

__all__ = ["TableView", "by_layer", "header_cells", "number_cell", "row_cells"]

_HOT: tuple[Role, ...] = ("normal", "above1", "above2", "above3", "below3", "below2", "below1")
"""Indexed by the heat: -1 is the last."""

_WIDE_NAME = 26
"""From this width of the first column on, the row of the furthest layer says by how much it differs."""

_FAR = 10.0
"""A layer that differs from the same layer of the other blocks by a factor of ten is marked."""


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
    spreads: Mapping[int, Spread] = field(default_factory=dict)
    """By the first node of each folded repeat."""

    other: Frame | None = None
    """The frame with which this one is compared."""

    differing: str | None = None
    """The layer in which two runs differ first."""

    def node_at(self, row: int) -> int | None:
        """Return the node whose numbers a row shows; None for the medians of a repeat."""
        node, repeat = self.listing.nodes[row], self.listing.repeats.get(row)
        if repeat is None:
            return node
        far = self.spreads[node].furthest
        return far.node if far and self.listing.is_furthest(row) else None


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
        indent = "  " if column.kind in ("number", "other") else ""
        cells.append(Cell(fit(indent + title, width), "header"))
    return tuple(cells)


def row_cells(view: TableView, row: int) -> tuple[Cell, ...]:
    """Return the cells of one row, which fill the layout's width except for the cell of the cursor."""
    node = view.node_at(row)
    if node is None:
        return _repeat_cells(view, view.spreads[view.listing.nodes[row]], row)
    cells = [_mark_cell(view, (node,)), _intervention_sign(view, (node, *_folded_nodes(view, node)))]
    for column, width in view.layout.columns:
        if column.kind == "name" and row in view.listing.repeats:
            cells.extend(_furthest_name_cells(view, row, width))
        elif column.kind == "name":
            cells.extend(_name_cells(view, node, width))
        elif column.kind == "type":
            cells.append(Cell(fit(view.frame.tree.layers[node].type, width - 1) + " ", "dim"))
        elif column.kind == "number":
            cells.extend(number_cell(view.frame, column.name, node))
        elif column.kind in ("other", "ratio"):
            cells.extend(_compared_cells(view, column, node, width))
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


def _repeat_cells(view: TableView, spread: Spread, row: int) -> tuple[Cell, ...]:
    """Return the row with the medians of a repeat; without a furthest layer, its second row is empty."""
    nodes, tree = tuple(spread.repeat.nodes.ravel().tolist()), view.frame.tree
    is_second = view.listing.is_furthest(row)
    cells = [Cell(" "), Cell(" ")]
    if not is_second:
        cells = [_mark_cell(view, nodes), _intervention_sign(view, nodes)]
    for column, width in view.layout.columns:
        if is_second:
            text = "  " * tree.depth[spread.repeat.first] + "  └ nothing measured yet"
            cells.append(Cell(fit(text if column.kind == "name" else "", width), "dim"))
        elif column.kind == "name":
            cells.extend(_repeat_name_cells(tree, spread, width))
        elif column.kind == "type":
            types = "+".join(
                tree.layers[spread.repeat.nodes[0, i]].type for i in spread.repeat.siblings
            )
            cells.append(Cell(fit(types, width - 1) + " ", "dim"))
        elif column.kind == "number":
            cells.append(_median_cell(spread, column.name))
        elif column.kind in ("other", "ratio"):
            cells.append(Cell(fit("   ·", width), "dim"))
        elif column.kind == "trend":
            cells.append(Cell(sparkline(spread.trend, width - 1) + " ", "spark"))
        else:
            count = sum(1 for node in nodes if view.interventions.get(tree.layers[node].name))
            cells.append(Cell(fit(f"in {counted(count, 'layer')}" if count else "", width), "active"))
    return tuple(cells)


def _repeat_name_cells(tree: LayerTree, spread: Spread, width: int) -> tuple[Cell, ...]:
    nodes = spread.repeat.nodes
    first, last = tree.label[nodes[0, 0]], tree.label[nodes[-1, spread.repeat.siblings[-1]]]
    text = f"{first}–{last}"
    count = f" ×{len(nodes)}"
    start = (
        "  " * min(tree.depth[spread.repeat.first], max(0, (width - len(text + count) - 4) // 2)) + "▸ "
    )
    note = f"{count} median" if width > len(start + text + count) + 7 else count
    label = fit(text, max(1, min(len(text), width - 1 - len(start) - len(note))))
    rest = width - len(start) - len(label)
    return Cell(start, "dim"), Cell(label, "container"), Cell(fit(note, rest - 1) + " ", "merged")


def _furthest_name_cells(view: TableView, row: int, width: int) -> tuple[Cell, ...]:
    """Return the name of the layer that differs most, in which quantity, and by how much."""
    tree, spread = view.frame.tree, view.spreads[view.listing.nodes[row]]
    far = spread.furthest
    if far is None:
        return (Cell(" " * width),)
    above = tree.parent[spread.repeat.first]
    name = tree.layers[far.node].name.removeprefix(f"{tree.layers[above].name}." if above >= 0 else "")
    title = next(quantity.title for quantity in QUANTITIES if quantity.name == far.quantity)
    how = "not finite" if np.isnan(far.ratio) else f"×{short_number(far.ratio)}"
    note = f" {title} {how}" if width >= _WIDE_NAME else ""
    start = (
        "  " * min(tree.depth[spread.repeat.first], max(0, (width - len(name + note) - 5) // 2))
        + "  └ "
    )
    label = fit(name, max(4, min(len(name), width - 1 - len(start) - len(note))), keep_end=True)
    role: Role = "normal" if 1 / _FAR < far.ratio < _FAR else "warning"
    rest = width - len(start) - len(label)
    return Cell(start, "dim"), Cell(label, role), Cell(fit(note, rest - 1) + " ", role)


def _compared_cells(view: TableView, column: Column, node: int, width: int) -> tuple[Cell, ...]:
    from gradscope_tui.view.compared import other_cells, ratio_cell  # noqa: PLC0415 - it shows numbers as this module

    name = view.frame.tree.layers[node].name
    if view.other is None:
        return (Cell(" " * width),)
    if column.kind == "other":
        return other_cells(view.other, name, column.quantity)
    return (ratio_cell(view.frame, view.other, name, column.quantity),)


def _median_cell(spread: Spread, quantity: str) -> Cell:
    if spread.broken[quantity]:
        return Cell(fit(f" NaN in {spread.broken[quantity]}", NUMBER_CELL - 1) + " ", "bad")
    value = spread.median[quantity]
    if np.isnan(value):
        return Cell(fit("   ·", NUMBER_CELL), "dim")
    return Cell("M" + aligned(value) + " ", "merged")


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


def _mark_cell(view: TableView, nodes: Iterable[int]) -> Cell:
    is_marked = any(view.frame.tree.layers[node].name in view.marked for node in nodes)
    return Cell("●" if is_marked else " ", "marked" if is_marked else "normal")


def _intervention_sign(view: TableView, nodes: Iterable[int]) -> Cell:
    """Return the sign of an intervention in any of these layers."""
    states = [s for n in nodes for s in view.interventions.get(view.frame.tree.layers[n].name, ())]
    if view.differing is not None and any(
        view.frame.tree.layers[node].name == view.differing for node in nodes
    ):
        return Cell("≠", "warning")
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
