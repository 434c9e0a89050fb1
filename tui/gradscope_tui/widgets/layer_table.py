"""`LayerTable` shows one row for each layer. It is drawn with Textual's Line API.

When data arrives, the cells of the visible rows are computed and compared with those on the screen; only
rows that differ are redrawn. `counters` has the number of strips built and reused, and of dirty rows.
"""

from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from gradscope.protocol import InterventionState
from gradscope_tui.keys import bindings_of
from gradscope_tui.store import Frame
from gradscope_tui.view.cell import Cell
from gradscope_tui.view.layout import choose_columns
from gradscope_tui.view.rows import Listing, RowOrder, list_rows, parse_filter
from gradscope_tui.view.table import TableView, by_layer, header_cells, row_cells
from gradscope_tui.widgets.cell_strip import CellWidget

__all__ = ["LayerTable"]


class LayerTable(CellWidget, ScrollView, can_focus=True):
    """Owns the cursor, marks, folding, filter and order that the person has chosen."""

    BINDINGS = bindings_of("layers")

    class DetailWanted(Message):
        """The person wants the layer at the cursor in detail."""

    class FilterWanted(Message):
        """The person wants the filter line."""

    class Changed(Message):
        """Marks, filter or order changed."""

        def can_replace(self, message: Message) -> bool:
            """Replace an earlier `Changed` in the queue."""
            return isinstance(message, LayerTable.Changed)

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.counters: Counter[str] = Counter()
        self.marked: set[str] = set()
        self.folded: set[str] = set()
        self.order = RowOrder()
        self._cursor = 0
        self._view: TableView | None = None
        self._cells: dict[int, tuple[Cell, ...]] = {}
        self._strips: dict[tuple[int, bool], tuple[tuple[Cell, ...], Strip]] = {}
        self._listed_from: object = None

    def show(self, frame: Frame, interventions: Collection[InterventionState]) -> None:
        """Show a frame. The cursor stays on its layer."""
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
        return nodes[self._cursor] if self._cursor < len(nodes) else None

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
        words.append(f"{shown} layers" if shown == all_layers else f"{shown} of {all_layers} layers")
        return " · ".join(words)

    def set_filter(self, text: str) -> None:
        """List matching layers only. Raises UsageError for an invalid regular expression."""
        parse_filter(text)
        self._reorder(replace(self.order, filter=text))

    def render_line(self, y: int) -> Strip:
        """Draw the header at line 0, otherwise a row of the table."""
        width = self.size.width
        if self._view is None:
            return Strip.blank(width, self.rich_style)
        if y == 0:
            return self.strip_of(header_cells(self._view), width, self.rich_style)
        row = y - 1 + self.scroll_offset.y
        if row >= self.listed:
            return Strip.blank(width, self.rich_style)
        return self._strip(row, self._row(self._view, row), width)

    def _strip(self, row: int, cells: tuple[Cell, ...], width: int) -> Strip:
        is_cursor = row == self._cursor
        cached = self._strips.get((row, is_cursor))
        if cached and cached[0] == cells and cached[1].cell_length == width:
            self.counters["strips_reused"] += 1
            return cached[1]
        self.counters["strips_built"] += 1
        over = self._cursor_style if is_cursor else None
        first = Cell("▌" if is_cursor else " ", "marked")
        strip = self.strip_of((first, *cells), width, self.rich_style, over)
        if len(self._strips) > 512:
            self._strips.clear()
        self._strips[row, is_cursor] = cells, strip
        return strip

    @property
    def _cursor_style(self) -> Style:
        style = self.style_of("chosen")
        return Style(bgcolor=style.bgcolor, bold=None)

    def _row(self, view: TableView, row: int) -> tuple[Cell, ...]:
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
        if before is not None and self._cursor < len(before.listing.nodes) and self._view is not None:
            name = before.frame.tree.layers[before.listing.nodes[self._cursor]].name
            node = self._view.frame.tree.find(name)
        if node in listing.nodes:
            self._cursor = listing.nodes.index(node)
        self._cursor = max(0, min(self._cursor, len(listing.nodes) - 1))
        self.call_after_refresh(self._scroll_to_cursor)

    def _reorder(self, order: RowOrder) -> None:
        self.order = order
        self._show_again()

    def _show_again(self) -> None:
        if self._view is not None:
            states = {state.id: state for each in self._view.interventions.values() for state in each}
            self.show(self._view.frame, tuple(states.values()))
        self.post_message(self.Changed())

    def _put_cursor(self, row: int) -> None:
        row = max(0, min(row, self.listed - 1))
        before, self._cursor = self._cursor, row
        self.refresh_line(before + 1)
        self.refresh_line(row + 1)
        self._scroll_to_cursor()
        self.post_message(self.Changed())

    def _scroll_to_cursor(self) -> None:
        top, rows = self.scroll_offset.y, max(1, self.size.height - 1)
        if self._cursor < top:
            self.scroll_to(y=self._cursor, animate=False)
        elif self._cursor >= top + rows:
            self.scroll_to(y=self._cursor - rows + 1, animate=False)

    def notify_style_update(self) -> None:
        """Discard the drawn lines when the theme changes."""
        super().notify_style_update()
        self._strips.clear()

    def on_resize(self) -> None:
        """Redraw for the new width."""
        if self._view is not None:
            self._show_again()

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to the clicked row; a double click shows the layer in detail."""
        if event.y == 0:
            return
        self._put_cursor(event.y - 1 + self.scroll_offset.y)
        if event.chain == 2:
            self.post_message(self.DetailWanted())

    def action_move(self, distance: int) -> None:
        """Move the cursor."""
        self._put_cursor(self._cursor + distance)

    def action_page(self, distance: int) -> None:
        """Move the cursor by pages."""
        self._put_cursor(self._cursor + distance * max(1, self.size.height - 2))

    def action_jump(self, row: int) -> None:
        """Move the cursor to the first or the last row."""
        self._put_cursor(row if row >= 0 else self.listed - 1)

    def action_fold(self) -> None:
        """Fold the container at the cursor; on any other layer, move the cursor to its container."""
        node, tree = self.cursor_node, self._view.frame.tree if self._view else None
        if node is None or tree is None or self._is_flat:
            return
        if tree.is_container(node) and tree.layers[node].name not in self.folded:
            self.folded.add(tree.layers[node].name)
            self._show_again()
        elif tree.parent[node] >= 0:
            self._put_cursor(self._view.listing.nodes.index(tree.parent[node]))  # type: ignore[union-attr]  # checked above

    def action_unfold(self) -> None:
        """Unfold the container at the cursor; if it is unfolded, move the cursor to its first layer."""
        node, tree = self.cursor_node, self._view.frame.tree if self._view else None
        if node is None or tree is None or self._is_flat or not tree.is_container(node):
            return
        if tree.layers[node].name in self.folded:
            self.folded.discard(tree.layers[node].name)
            self._show_again()
        else:
            self._put_cursor(self._cursor + 1)

    @property
    def _is_flat(self) -> bool:
        return self._view is not None and self._view.listing.is_flat

    def action_mark(self) -> None:
        """Toggle the mark of the layer and move the cursor to the next row."""
        node = self.cursor_node
        if node is not None and self._view is not None:
            self.marked ^= {self._view.frame.tree.layers[node].name}
            self._show_again()
            self._put_cursor(self._cursor + 1)

    def action_mark_all(self) -> None:
        """Mark all listed layers; if all are marked, remove their marks."""
        if self._view is None:
            return
        tree = self._view.frame.tree
        names = {tree.layers[node].name for node in self._view.listing.nodes}
        self.marked = self.marked - names if names <= self.marked else self.marked | names
        self._show_again()

    def action_detail(self) -> None:
        """Show the layer in detail."""
        if self.cursor_node is not None:
            self.post_message(self.DetailWanted())

    def action_filter(self) -> None:
        """Open the filter line."""
        self.post_message(self.FilterWanted())

    def action_sort(self, distance: int) -> None:
        """Sort by the next or the previous column."""
        self._reorder(self.order.sorted_by_next(distance))

    def action_invert(self) -> None:
        """Reverse the order."""
        self._reorder(replace(self.order, is_ascending=not self.order.is_ascending))
