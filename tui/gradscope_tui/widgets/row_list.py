"""Lists with a cursor: `CursorList`, their base, and `RowList`, for interventions, alerts, log and runs."""

from collections.abc import Sequence

from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

from gradscope_tui.keys import bindings_of
from gradscope_tui.view.cell import Cell, Line, text_of
from gradscope_tui.widgets.cell_widget import CellWidget

__all__ = ["CursorList", "RowList"]


class _FromList(Message):
    """A message of a list, by which `@on` selects."""

    def __init__(self, sender: "CursorList") -> None:
        super().__init__()
        self.sender = sender

    @property
    def control(self) -> "CursorList":
        """The list that posted the message."""
        return self.sender


class CursorList(CellWidget, ScrollView, can_focus=True):
    """Scrollable rows below a fixed header. A subclass counts the rows and draws them."""

    BINDINGS = bindings_of("list")

    class Chosen(_FromList):
        """The row at the cursor was chosen with enter or a double click."""

    class Moved(_FromList):
        """The cursor is in another row."""

    cursor: int = 0

    @property
    def listed(self) -> int:
        """The number of rows."""
        raise NotImplementedError

    @property
    def header_height(self) -> int:
        """The number of lines above the rows."""
        return 1

    def put_cursor(self, row: int) -> None:
        """Move the cursor to a row, or to the nearest one that is listed, and scroll to it."""
        before, self.cursor = self.cursor, max(0, min(row, self.listed - 1))
        for changed in (before, self.cursor):
            self.refresh_line(changed + self.header_height)
        self.scroll_to_cursor()
        self.post_message(self.Moved(self))

    def scroll_to_cursor(self) -> None:
        """Scroll as little as needed to show the row at the cursor."""
        top, rows = self.scroll_offset.y, max(1, self.size.height - self.header_height)
        if self.cursor < top:
            self.scroll_to(y=self.cursor, animate=False)
        elif self.cursor >= top + rows:
            self.scroll_to(y=self.cursor - rows + 1, animate=False)

    def row_strip(self, row: int, cells: Line) -> Strip:
        """Return a drawn row, with the mark of the cursor in its first cell."""
        is_cursor = row == self.cursor
        first = Cell("▌" if is_cursor else " ", "marked")
        return self.strip_of((first, *cells), is_cursor=is_cursor)

    def on_click(self, event: events.Click) -> None:
        """Move the cursor to the clicked row; a double click chooses it."""
        row = event.y - self.header_height + self.scroll_offset.y
        if event.y >= self.header_height and row < self.listed:
            self.put_cursor(row)
            if event.chain == 2:
                self.action_choose()

    def action_move(self, distance: int) -> None:
        """Move the cursor."""
        self.put_cursor(self.cursor + distance)

    def action_page(self, distance: int) -> None:
        """Move the cursor by pages."""
        self.action_move(distance * max(1, self.size.height - self.header_height - 1))

    def action_jump(self, row: int) -> None:
        """Move the cursor to the first or the last row."""
        self.put_cursor(row if row >= 0 else self.listed - 1)

    def action_choose(self) -> None:
        """Choose the row at the cursor."""
        if self.listed:
            self.post_message(self.Chosen(self))


class RowList(CursorList):
    """Each row is a line of cells. With `follows`, the cursor stays at the end if rows are added."""

    def __init__(self, *, follows: bool = False, id: str | None = None) -> None:
        super().__init__(id=id)
        self._header: tuple[Line, ...] = ()
        self._follows = follows
        self._rows: tuple[Line, ...] = ()

    def show(self, rows: Sequence[Line], *header: Line) -> None:
        """Show these rows below a header, whose last line has the column titles."""
        rows = tuple(rows)
        if (rows, header) == (self._rows, self._header):
            return
        was_at_end = self.cursor >= len(self._rows) - 1
        self._rows, self._header = rows, header
        self.cursor = max(0, min(self.cursor, len(rows) - 1))
        self.virtual_size = Size(self.size.width, len(rows) + self.header_height)
        if self._follows and was_at_end:
            self.cursor = max(0, len(rows) - 1)
            self.call_after_refresh(self.scroll_to_cursor)
        self.refresh(layout=True)

    @property
    def listed(self) -> int:
        """The number of rows."""
        return len(self._rows)

    @property
    def row_text(self) -> str:
        """The text of the row at the cursor, with single blanks."""
        return (
            " ".join(text_of(self._rows[self.cursor]).split()) if self.cursor < len(self._rows) else ""
        )

    @property
    def header_height(self) -> int:
        """The height of the header, which leaves at least three lines for the rows."""
        return min(len(self._header), max(1, self.size.height - 3))

    def get_content_height(self, *_: object) -> int:
        """Return the height of the header and all rows."""
        return len(self._rows) + len(self._header)

    def render_line(self, y: int) -> Strip:
        """Draw a line of the header, or a row. A header that does not fit still has the column titles."""
        height = self.header_height
        if y < height:
            return self.strip_of(self._header[-1] if y == height - 1 else self._header[y])
        row = y - height + self.scroll_offset.y
        return self.row_strip(row, self._rows[row]) if row < len(self._rows) else self.strip_of(())
