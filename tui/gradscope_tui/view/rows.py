"""The list of layers and its order: folding, filter and sorting.

Without filter and sorting, the list is the tree without its folded parts; folded repeated blocks have two rows.
With either, the list is flat and shows full names.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from gradscope.errors import UsageError
from gradscope_tui.store.layers import LayerTree
from gradscope_tui.store.measure import QUANTITIES, Frame
from gradscope_tui.store.repeats import Repeat

__all__ = ["SORTS", "Listing", "RowOrder", "list_rows", "parse_filter"]

SORTS: tuple[str, ...] = ("", *(quantity.name for quantity in QUANTITIES))
"""The quantities to sort by; the empty one is the order of the model."""


_NO_REPEATS: Mapping[int, Repeat] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class RowOrder:
    """Filter and order. `filter` is a regular expression over names and types; `!` inverts it."""

    filter: str = ""
    sort: str = ""
    is_ascending: bool = False

    def sorted_by_next_quantity(self, distance: int) -> "RowOrder":
        """Return this order, sorted by the next or previous quantity."""
        at = (SORTS.index(self.sort) + distance) % len(SORTS)
        return replace(self, sort=SORTS[at])


@dataclass(frozen=True, slots=True)
class Listing:
    """The listed nodes from top to bottom; a plain list instead of a tree if `is_flat`.

    A folded repeat has two rows with its first node: its medians, and below them the layer that differs most.
    `repeats` has the repeat of both rows, by row.
    """

    nodes: tuple[int, ...]
    is_flat: bool
    repeats: Mapping[int, Repeat] = field(default_factory=dict)

    def is_furthest(self, row: int) -> bool:
        """Return whether a row shows the most different layer of a repeat (its second row)."""
        return row > 0 and self.repeats.get(row) is not None and self.nodes[row - 1] == self.nodes[row]


def parse_filter(text: str) -> tuple[re.Pattern[str], bool]:
    """Return the expression, and whether it is inverted. Raises UsageError for an invalid one."""
    is_inverted = text.startswith("!")
    try:
        return re.compile(text[is_inverted:], re.IGNORECASE), is_inverted
    except re.error as error:
        raise UsageError(f"invalid regular expression: {error}") from error


def list_rows(
    frame: Frame, order: RowOrder, folded: Collection[str], repeats: Mapping[int, Repeat] = _NO_REPEATS
) -> Listing:
    """Return the listed nodes. Raises UsageError if the filter is an invalid regular expression.

    folded: names of folded containers. repeats: the folded repeats by their first node.
    """
    tree = frame.tree
    if not (order.filter or order.sort):
        return _tree_rows(tree, folded, repeats)
    nodes = _matching_nodes(tree, order.filter)
    if order.sort:
        nodes = _sorted_nodes(nodes, frame, order)
    return Listing(tuple(nodes), is_flat=True)


def _matching_nodes(tree: LayerTree, text: str) -> list[int]:
    pattern, is_inverted = parse_filter(text)
    return [
        node
        for node in tree.order
        if bool(pattern.search(f"{tree.layers[node].name} {tree.layers[node].type}")) != is_inverted
    ]


def _tree_rows(tree: LayerTree, folded: Collection[str], repeats: Mapping[int, Repeat]) -> Listing:
    nodes: list[int] = []
    found: dict[int, Repeat] = {}
    place = 0
    while place < len(tree):
        node = tree.order[place]
        nodes.append(node)
        repeat = repeats.get(node)
        if repeat is not None:
            found[len(nodes) - 1] = found[len(nodes)] = repeat
            nodes.append(node)
            place = repeat.end
        else:
            place = tree.end[node] if tree.layers[node].name in folded else place + 1
    return Listing(tuple(nodes), is_flat=False, repeats=found)


def _sorted_nodes(nodes: list[int], frame: Frame, order: RowOrder) -> list[int]:
    """Sort by a quantity: nonfinite values first, then by value, values not measured last."""
    measured = frame.measured
    values = measured.values[order.sort][nodes]
    broken = (measured.nan[order.sort] + measured.inf[order.sort])[nodes] > 0
    sign = 1.0 if order.is_ascending else -1.0
    keys = np.where(np.isnan(values), np.inf, sign * np.nan_to_num(values))
    keys[broken] = -np.inf
    return [nodes[i] for i in np.argsort(keys, kind="stable")]
