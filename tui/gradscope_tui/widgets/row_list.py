"""`RowList`: a list of lines with a cursor, for interventions, alerts, log and runs."""

from collections.abc import Sequence
from typing import ClassVar

from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from gradscope_tui.view.cell import Cell
from gradscope_tui.widgets.cell_strip import CellWidget

__all__ = ["RowList"]


class RowList(CellWidget, ScrollView, can_focus=True):
    """Each row is a tuple of cells. With `follows`, the cursor stays at the end if rows are added."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", show=False),
        Binding("k,up", "move(-1)", show=False),
        Binding("g,home", "move(-1000000)", show=False),
        Binding("G,end", "move(1000000)", show=False),
        Binding("pagedown", "move(10)", show=False),
        Binding("pageup", "move(-10)", show=False),
        Binding("enter", "choose", show=False),
    ]

    class Chosen(Message):
        """A row was chosen with enter or a double click."""

        def __init__(self, rows: "RowList", row: int) -> None:
            super().__init__()
            self.rows = rows
            self.row = row

        @property
        def control(self) -> "RowList":
            """The list that posted the message; `@on` selects by it."""
            return self.rows

    def __init__(
        self, header: tuple[Cell, ...] = (), *, follows: bool = False, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self._header = header
        self._follows = follows
        self._rows: tuple[tuple[Cell, ...], ...] = ()
        self.cursor = 0

    def show(self, rows: Sequence[tuple[Cell, ...]], header: tuple[Cell, ...] | None = None) -> None:
        """Show these rows. `header` replaces the header if it is given."""
        rows, header = tuple(rows), self._header if header is None else header
        if (rows, header) == (self._rows, self._header):
            return
        self._header = header
        was_at_end = self.cursor >= len(self._rows) - 1
        self._rows = rows
        self.cursor = max(0, min(self.cursor, len(rows) - 1))
        self.virtual_size = Size(self.size.width, len(rows) + self._header_height)
        if self._follows and was_at_end:
            self.cursor = max(0, len(rows) - 1)
            self.call_after_refresh(self._scroll_to_cursor)
        self.refresh(layout=True)

    @property
    def rows(self) -> tuple[tuple[Cell, ...], ...]:
        """The listed rows."""
        return self._rows

    @property
    def _header_height(self) -> int:
        return 1 if self._header else 0

    def get_content_height(self, *_: object) -> int:
        """Return the height of the header and all rows."""
        return len(self._rows) + self._header_height

    def render_line(self, y: int) -> Strip:
        """Draw the header, or the row at line `y`."""
        width = self.size.width
        if y == 0 and self._header:
            return self.strip_of(self._header, width, self.rich_style)
        row = y - self._header_height + self.scroll_offset.y
        if row >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        is_cursor = row == self.cursor
        first = Cell("▌" if is_cursor else " ", "marked")
        over = Style(bgcolor=self.style_of("chosen").bgcolor) if is_cursor else None
        return self.strip_of((first, *self._rows[row]), width, self.rich_style, over)

    def _scroll_to_cursor(self) -> None:
        top, rows = self.scroll_offset.y, max(1, self.size.height - self._header_height)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False)
        elif self.cursor >= top + rows:
            self.scroll_to(y=self.cursor - rows + 1, animate=False)

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to the clicked row; a double click chooses it."""
        row = event.y - self._header_height + self.scroll_offset.y
        if 0 <= row < len(self._rows):
            self.action_move(row - self.cursor)
            if event.chain == 2:
                self.action_choose()

    def action_move(self, distance: int) -> None:
        """Move the cursor."""
        self.cursor = max(0, min(self.cursor + distance, len(self._rows) - 1))
        self._scroll_to_cursor()
        self.refresh()

    def action_choose(self) -> None:
        """Choose the row at the cursor."""
        if self._rows:
            self.post_message(self.Chosen(self, self.cursor))
