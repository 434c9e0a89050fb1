"""`LayerTable` shows one row for each layer. It is drawn with Textual's Line API.

When data arrives, the cells of the visible rows are computed and compared with those on the screen; only
rows that differ are redrawn. `counters` has the number of strips built and reused, and of dirty rows.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from textual.geometry import Size
from textual.message import Message
from textual.strip import Strip

from gradscope.names import counted
from gradscope.protocol import InterventionState
from gradscope_tui.keys import bindings_of
from gradscope_tui.store.layers import LayerTree
from gradscope_tui.store.measure import Frame
from gradscope_tui.store.repeats import Repeat, Spread, find_repeats, spread_of
from gradscope_tui.store.run import RunStore
from gradscope_tui.view.cell import Line
from gradscope_tui.view.layout import choose_columns
from gradscope_tui.view.rows import SORTS, Listing, RowOrder, list_rows, parse_filter
from gradscope_tui.view.table import TableView, by_layer, header_cells, row_cells
from gradscope_tui.widgets.row_list import CursorList

__all__ = ["LayerTable"]

_MOST_UNFOLDED = 60
"""The repeated blocks of a larger model are folded at first: it would fill more than two screens of 32 lines."""


class LayerTable(CursorList):
    """Owns the cursor, marks, folding, filter and order that the person has chosen."""

    BINDINGS = bindings_of("layers")

    class Changed(Message):
        """Marks, filter or order changed."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.counters: Counter[str] = Counter()
        self.marked: set[str] = set()
        self.folded: set[str] = set()
        self.order = RowOrder()
        no_rows = Listing((), is_flat=False)
        self._view = TableView(RunStore("").frame(), no_rows, self.order, choose_columns(0))
        self._interventions: Collection[InterventionState] = ()
        self._other: Frame | None = None
        self._differing: str | None = None
        self._cells: dict[int, Line] = {}
        self._strips: dict[tuple[int, bool], tuple[Line, Strip]] = {}
        self._listed_from: object = None
        self._repeats: dict[int, Repeat] = {}
        self._unfolded_repeats: set[str] = set()
        self._spreads: dict[int, Spread] = {}

    def show(
        self,
        frame: Frame,
        interventions: Collection[InterventionState],
        other: Frame | None = None,
        differing: str | None = None,
    ) -> None:
        """Show a frame, with the numbers of another one next to its own. The cursor stays on its layer."""
        self._interventions, self._other, self._differing = interventions, other, differing
        # Before its first layout, the table has no width; it is about to fill the screen.
        width = self.scrollable_content_region.width if self.size.width else self.app.size.width
        before = self._view
        if frame.tree is not before.frame.tree:
            self._find_repeats(frame.tree)
        listing = self._list_rows(frame)
        columns, states = choose_columns(width, is_compared=other is not None), by_layer(interventions)
        self._spreads = {
            repeat.first: spread_of(repeat, frame, self._furthest_of(repeat))
            for repeat in {id(each): each for each in listing.repeats.values()}.values()
        }
        view = TableView(
            frame, listing, self.order, columns, states, self.folded, self.marked, self._spreads,
            other, differing,
        )  # fmt: skip
        self._view = view
        is_same = before.listing is listing and before.layout == view.layout
        if is_same and before.frame.tree is frame.tree:
            self._refresh_changed_rows()
        else:
            self._keep_cursor(before, listing)
            self._cells.clear()
            self.virtual_size = Size(width, len(listing.nodes) + 1)
            self.refresh()
            self.call_after_refresh(self._fit_width)

    def _find_repeats(self, tree: LayerTree) -> None:
        """Find the repeated blocks of a new tree. Those of a large model are folded at first."""
        self._repeats, self._spreads = find_repeats(tree), {}
        if len(tree) <= _MOST_UNFOLDED:
            self._unfolded_repeats |= {tree.layers[first].name for first in self._repeats}

    def _furthest_of(self, repeat: Repeat) -> int | None:
        spread = self._spreads.get(repeat.first)
        return spread.furthest.node if spread and spread.furthest else None

    def _fit_width(self) -> None:
        """Redraw if the scroll bar has appeared or disappeared."""
        width = self.scrollable_content_region.width
        if self._view.layout.width != width:
            self._show_again()

    def chosen(self) -> tuple[str, ...]:
        """Return the marked layers in the model's order, or the one at the cursor, or all of its blocks."""
        tree = self._tree
        marked = tuple(tree.layers[n].name for n in tree.order if tree.layers[n].name in self.marked)
        return marked or tuple(tree.layers[n].name for n in self._nodes_at_cursor)

    @property
    def _tree(self) -> LayerTree:
        return self._view.frame.tree

    @property
    def cursor_node(self) -> int | None:
        """The node at the cursor; for the medians of a repeat, its first node."""
        nodes = self._view.listing.nodes
        if self.cursor >= len(nodes):
            return None
        node = self._view.node_at(self.cursor)
        return nodes[self.cursor] if node is None else node

    @property
    def _nodes_at_cursor(self) -> tuple[int, ...]:
        """The node at the cursor; for the medians of a repeat, the siblings at the top of each block."""
        node, repeat = self.cursor_node, self._view.listing.repeats.get(self.cursor)
        if repeat is None or self._view.listing.is_furthest(self.cursor):
            return () if node is None else (node,)
        return tuple(repeat.nodes[:, list(repeat.siblings)].ravel().tolist())

    @property
    def cursor_layer(self) -> str | None:
        """The name of the layer at the cursor."""
        node = self.cursor_node
        return None if node is None else self._tree.layers[node].name

    @property
    def listed(self) -> int:
        """The number of rows."""
        return len(self._view.listing.nodes)

    @property
    def in_words(self) -> str:
        """The numbers of marked and listed layers, and the filter, as text; empty without layers."""
        all_layers = len(self._tree)
        if not all_layers:
            return ""
        words = [f"{len(self.marked)} marked"] if self.marked else []
        words += [f"/{self.order.filter}"] if self.order.filter else []
        shown = self.listed
        words.append(("" if shown == all_layers else f"{shown:,} of ") + counted(all_layers, "layer"))
        return " · ".join(words)

    def set_filter(self, text: str) -> None:
        """List matching layers only. Raises UsageError for an invalid regular expression."""
        parse_filter(text)
        self._set_order(replace(self.order, filter=text))

    def restore_order(self, sort: str, *, is_ascending: bool) -> None:
        """Use the order of an earlier session; a column that does not exist is ignored."""
        if sort in SORTS:
            self.order = RowOrder(sort=sort, is_ascending=is_ascending)

    def render_line(self, y: int) -> Strip:
        """Draw the header at line 0, otherwise a row of the table."""
        if y == 0:
            return self.strip_of(header_cells(self._view))
        row = y - 1 + self.scroll_offset.y
        return (
            self._cached_strip(row, self._cells_of_row(row)) if row < self.listed else self.strip_of(())
        )

    def _cached_strip(self, row: int, cells: Line) -> Strip:
        key = row, row == self.cursor
        cached = self._strips.get(key)
        if cached and cached[0] == cells and cached[1].cell_length == self.size.width:
            self.counters["strips_reused"] += 1
            return cached[1]
        self.counters["strips_built"] += 1
        if len(self._strips) > 512:
            self._strips.clear()
        self._strips[key] = cells, self.row_strip(row, cells)
        return self._strips[key][1]

    def _cells_of_row(self, row: int) -> Line:
        if row not in self._cells:
            self._cells[row] = row_cells(self._view, row)
        return self._cells[row]

    def _refresh_changed_rows(self) -> None:
        before, self._cells = self._cells, {}
        top = self.scroll_offset.y
        for row in range(top, min(self.listed, top + self.size.height)):
            if before.get(row) != self._cells_of_row(row):
                self.counters["rows_dirty"] += 1
                self.refresh_line(row + 1)

    def _list_rows(self, frame: Frame) -> Listing:
        """Return the listed rows; the previous object if it is equal, so that it can be compared fast."""
        key = (id(frame.tree), self.order, frozenset(self.folded), frozenset(self._unfolded_repeats))
        before = self._view.listing
        if key == self._listed_from and not self.order.sort:
            return before
        layers = frame.tree.layers
        repeats = {
            n: r for n, r in self._repeats.items() if layers[n].name not in self._unfolded_repeats
        }
        listing = list_rows(frame, self.order, self.folded, repeats)
        self._listed_from = key
        return before if before == listing else listing

    def _keep_cursor(self, before: TableView, listing: Listing) -> None:
        node = None
        if self.cursor < len(before.listing.nodes):
            node = self._tree.find(before.frame.tree.layers[before.listing.nodes[self.cursor]].name)
        if node in listing.nodes:
            self.cursor = listing.nodes.index(node)
        self.cursor = max(0, min(self.cursor, len(listing.nodes) - 1))
        self.call_after_refresh(self.scroll_to_cursor)

    def _set_order(self, order: RowOrder) -> None:
        self.order = order
        self._show_again()

    def _show_again(self) -> None:
        self.show(self._view.frame, self._interventions, self._other, self._differing)
        self.post_message(self.Changed())

    def notify_style_update(self) -> None:
        """Discard the drawn lines when the theme changes."""
        super().notify_style_update()
        self._strips.clear()

    def on_resize(self) -> None:
        """Redraw for the new width."""
        self._show_again()

    def action_fold(self) -> None:
        """Fold the container at the cursor; then the repeat of that block; else go to the container."""
        node, tree, listing = self.cursor_node, self._tree, self._view.listing
        if node is None or listing.is_flat:
            return
        is_of_repeat = self.cursor in listing.repeats
        repeat = None if is_of_repeat else self._repeat_around(node)
        above = tree.parent[listing.nodes[self.cursor] if is_of_repeat else node]
        is_open = tree.is_container(node) and tree.layers[node].name not in self.folded
        if is_open and not is_of_repeat:
            self.folded.add(tree.layers[node].name)
            self._show_again()
        elif repeat is not None:
            self._unfolded_repeats.discard(tree.layers[repeat.first].name)
            self._show_again()
            self.put_cursor(self._view.listing.nodes.index(repeat.first))
        elif above >= 0:
            self.put_cursor(listing.nodes.index(above))

    def action_unfold(self) -> None:
        """Unfold the container at the cursor; if it is unfolded, move the cursor to its first layer."""
        node, tree, repeat = self.cursor_node, self._tree, self._view.listing.repeats.get(self.cursor)
        if repeat is not None:
            self._unfold_repeat(repeat, tree)
            return
        if node is None or self._view.listing.is_flat or not tree.is_container(node):
            return
        if tree.layers[node].name in self.folded:
            self.folded.discard(tree.layers[node].name)
            self._show_again()
        else:
            self.put_cursor(self.cursor + 1)

    def action_choose(self) -> None:
        """Choose the layer at the cursor; unfold the repeat whose medians are there."""
        repeat = self._view.listing.repeats.get(self.cursor)
        if repeat is not None and not self._view.listing.is_furthest(self.cursor):
            self._unfold_repeat(repeat, self._tree)
        else:
            super().action_choose()

    def _unfold_repeat(self, repeat: Repeat, tree: LayerTree) -> None:
        """Show each block in a row, folded; on the row of the furthest layer, show that layer."""
        node = self._view.node_at(self.cursor)
        blocks = repeat.nodes[:, list(repeat.siblings)].ravel().tolist()
        self.folded |= {tree.layers[each].name for each in blocks if tree.is_container(each)}
        self._unfolded_repeats.add(tree.layers[repeat.first].name)
        if node is not None:
            self.folded -= {tree.layers[each].name for each in tree.above(node)}
        self._show_again()
        self.put_cursor(self._view.listing.nodes.index(repeat.first if node is None else node))

    def _repeat_around(self, node: int) -> Repeat | None:
        """Return the repeat of which a node is the top of a block."""
        return next((r for r in self._repeats.values() if node in r.nodes[:, list(r.siblings)]), None)

    def action_fold_repeats(self) -> None:
        """Fold all repeated blocks, or unfold them if all are folded."""
        names = {self._tree.layers[first].name for first in self._repeats}
        if not names:
            self.notify("This model has no repeated blocks: no three layers in a row that are alike.")
        elif names & self._unfolded_repeats:
            self._unfolded_repeats -= names
        else:
            self._unfolded_repeats |= names
        self._show_again()

    def action_mark(self) -> None:
        """Toggle the mark of the layer and move the cursor to the next row."""
        names = {self._tree.layers[node].name for node in self._nodes_at_cursor}
        if names:
            self.marked = self.marked - names if names <= self.marked else self.marked | names
            self._show_again()
            self.put_cursor(self.cursor + 1)

    def action_mark_all(self) -> None:
        """Mark all listed layers; if all are marked, remove their marks."""
        nodes = {*self._view.listing.nodes, *self._nodes_of_repeats()}
        names = {self._tree.layers[node].name for node in nodes}
        self.marked = self.marked - names if names <= self.marked else self.marked | names
        self._show_again()

    def _nodes_of_repeats(self) -> set[int]:
        return {
            n for repeat in self._view.listing.repeats.values() for n in repeat.nodes.ravel().tolist()
        }

    def action_sort(self, distance: int) -> None:
        """Sort by the next or the previous column."""
        self._set_order(self.order.sorted_by_next_quantity(distance))

    def action_invert(self) -> None:
        """Reverse the order."""
        self._set_order(replace(self.order, is_ascending=not self.order.is_ascending))
