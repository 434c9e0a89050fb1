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

from gradscope.protocol import InterventionState
from gradscope_tui.keys import bindings_of
from gradscope_tui.store.measure import Frame
from gradscope_tui.view.cell import Line
from gradscope_tui.view.layout import choose_columns
from gradscope_tui.view.numbers import counted
from gradscope_tui.view.rows import Listing, RowOrder, list_rows, parse_filter
from gradscope_tui.view.table import TableView, by_layer, header_cells, row_cells
from gradscope_tui.widgets.row_list import CursorList

__all__ = ["LayerTable"]


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
        self._view: TableView | None = None
        self._interventions: Collection[InterventionState] = ()
        self._cells: dict[int, Line] = {}
        self._strips: dict[tuple[int, bool], tuple[Line, Strip]] = {}
        self._listed_from: object = None

    def show(self, frame: Frame, interventions: Collection[InterventionState]) -> None:
        """Show a frame. The cursor stays on its layer."""
        self._interventions = interventions
        width = self.scrollable_content_region.width
        listing = self._listing(frame)
        before = self._view
        view = TableView(
            frame,
            listing,
            self.order,
            choose_columns(width),
            by_layer(interventions),
            self.folded,
            self.marked,
        )
        self._view = view
        is_same = (
            before is not None
            and before.listing is listing
            and before.layout == view.layout
            and before.frame.tree is frame.tree
        )
        if is_same:
            self._refresh_changed_rows(view)
        else:
            self._keep_cursor(before, listing)
            self._cells.clear()
            self.virtual_size = Size(width, len(listing.nodes) + 1)
            self.refresh()
            self.call_after_refresh(self._fit_width)

    def _fit_width(self) -> None:
        """Redraw if the scroll bar has appeared or disappeared."""
        width = self.scrollable_content_region.width
        if self._view is not None and self._view.layout.width != width:
            self._show_again()

    def chosen(self) -> tuple[str, ...]:
        """Return the marked layers in the model's order, or the one at the cursor."""
        if self._view is None:
            return ()
        tree = self._view.frame.tree
        marked = tuple(tree.layers[n].name for n in tree.order if tree.layers[n].name in self.marked)
        node = self.cursor_node
        return marked or (() if node is None else (tree.layers[node].name,))

    @property
    def cursor_node(self) -> int | None:
        """The node at the cursor."""
        nodes = self._view.listing.nodes if self._view else ()
        return nodes[self.cursor] if self.cursor < len(nodes) else None

    @property
    def cursor_layer(self) -> str | None:
        """The name of the layer at the cursor."""
        node = self.cursor_node
        return None if node is None or self._view is None else self._view.frame.tree.layers[node].name

    @property
    def listed(self) -> int:
        """The number of rows."""
        return len(self._view.listing.nodes) if self._view else 0

    @property
    def in_words(self) -> str:
        """The numbers of marked and listed layers, and the filter, as text."""
        if self._view is None:
            return ""
        all_layers = len(self._view.frame.tree)
        words = [f"{len(self.marked)} marked"] if self.marked else []
        words += [f"/{self.order.filter}"] if self.order.filter else []
        shown = self.listed
        words.append(("" if shown == all_layers else f"{shown:,} of ") + counted(all_layers, "layer"))
        return " · ".join(words)

    def set_filter(self, text: str) -> None:
        """List matching layers only. Raises UsageError for an invalid regular expression."""
        parse_filter(text)
        self._reorder(replace(self.order, filter=text))

    def render_line(self, y: int) -> Strip:
        """Draw the header at line 0, otherwise a row of the table."""
        row = y - 1 + self.scroll_offset.y
        if self._view is None or (y and row >= self.listed):
            return self.strip_of(())
        return (
            self._strip(row, self._row(self._view, row))
            if y
            else self.strip_of(header_cells(self._view))
        )

    def _strip(self, row: int, cells: Line) -> Strip:
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

    def _row(self, view: TableView, row: int) -> Line:
        cells = self._cells.get(row)
        if cells is None:
            cells = self._cells[row] = row_cells(view, row)
        return cells

    def _refresh_changed_rows(self, view: TableView) -> None:
        before, self._cells = self._cells, {}
        top = self.scroll_offset.y
        for row in range(top, min(self.listed, top + self.size.height)):
            if before.get(row) != self._row(view, row):
                self.counters["rows_dirty"] += 1
                self.refresh_line(row + 1)

    def _listing(self, frame: Frame) -> Listing:
        """Return the listed rows; the previous object if it is equal, so that it can be compared fast."""
        key = (id(frame.tree), self.order, frozenset(self.folded))
        before = self._view.listing if self._view else None
        if before is not None and key == self._listed_from and not self.order.sort:
            return before
        listing = list_rows(frame, self.order, self.folded)
        self._listed_from = key
        return before if before is not None and before == listing else listing

    def _keep_cursor(self, before: TableView | None, listing: Listing) -> None:
        node = None
        if before is not None and self.cursor < len(before.listing.nodes) and self._view is not None:
            name = before.frame.tree.layers[before.listing.nodes[self.cursor]].name
            node = self._view.frame.tree.find(name)
        if node in listing.nodes:
            self.cursor = listing.nodes.index(node)
        self.cursor = max(0, min(self.cursor, len(listing.nodes) - 1))
        self.call_after_refresh(self.scroll_to_cursor)

    def _reorder(self, order: RowOrder) -> None:
        self.order = order
        self._show_again()

    def _show_again(self) -> None:
        if self._view is not None:
            self.show(self._view.frame, self._interventions)
        self.post_message(self.Changed())

    def notify_style_update(self) -> None:
        """Discard the drawn lines when the theme changes."""
        super().notify_style_update()
        self._strips.clear()

    def on_resize(self) -> None:
        """Redraw for the new width."""
        if self._view is not None:
            self._show_again()

    def action_fold(self) -> None:
        """Fold the container at the cursor; on any other layer, move the cursor to its container."""
        node, tree = self.cursor_node, self._view.frame.tree if self._view else None
        if node is None or tree is None or self._is_flat:
            return
        if tree.is_container(node) and tree.layers[node].name not in self.folded:
            self.folded.add(tree.layers[node].name)
            self._show_again()
        elif tree.parent[node] >= 0:
            self.put_cursor(self._view.listing.nodes.index(tree.parent[node]))  # type: ignore[union-attr]  # checked above

    def action_unfold(self) -> None:
        """Unfold the container at the cursor; if it is unfolded, move the cursor to its first layer."""
        node, tree = self.cursor_node, self._view.frame.tree if self._view else None
        if node is None or tree is None or self._is_flat or not tree.is_container(node):
            return
        if tree.layers[node].name in self.folded:
            self.folded.discard(tree.layers[node].name)
            self._show_again()
        else:
            self.put_cursor(self.cursor + 1)

    @property
    def _is_flat(self) -> bool:
        return self._view is not None and self._view.listing.is_flat

    def action_mark(self) -> None:
        """Toggle the mark of the layer and move the cursor to the next row."""
        node = self.cursor_node
        if node is not None and self._view is not None:
            self.marked ^= {self._view.frame.tree.layers[node].name}
            self._show_again()
            self.put_cursor(self.cursor + 1)

    def action_mark_all(self) -> None:
        """Mark all listed layers; if all are marked, remove their marks."""
        if self._view is None:
            return
        tree = self._view.frame.tree
        names = {tree.layers[node].name for node in self._view.listing.nodes}
        self.marked = self.marked - names if names <= self.marked else self.marked | names
        self._show_again()

    def action_sort(self, distance: int) -> None:
        """Sort by the next or the previous column."""
        self._reorder(self.order.sorted_by_next(distance))

    def action_invert(self) -> None:
        """Reverse the order."""
        self._reorder(replace(self.order, is_ascending=not self.order.is_ascending))
