"""`MemoryPage` shows bars of memory and time above a list of layers. Only the list scrolls."""

from collections.abc import Sequence

from textual.geometry import Size
from textual.strip import Strip

from gradscope_tui.view.cell import Cell
from gradscope_tui.widgets.row_list import RowList

__all__ = ["MemoryPage"]


class MemoryPage(RowList):
    """A list whose header has several lines."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._head: tuple[tuple[Cell, ...], ...] = ()

    def show_page(self, head: Sequence[tuple[Cell, ...]], rows: Sequence[tuple[Cell, ...]]) -> None:
        """Show these lines. The last line of the head has the column titles."""
        if tuple(head) != self._head:
            self._head = tuple(head)
            self.virtual_size = Size(self.size.width, len(self.rows) + self._header_height)
            self.refresh(layout=True)
        self.show(rows)

    @property
    def _header_height(self) -> int:
        """Return the height of the head, which leaves at least three lines for the list."""
        return max(0, min(len(self._head), self.size.height - 3))

    def render_line(self, y: int) -> Strip:
        """Draw a line of the head, or a row. A head that does not fit still shows the column titles."""
        height = self._header_height
        if y >= height:
            return super().render_line(y)
        line = self._head[-1] if y == height - 1 else self._head[y]
        return self.strip_of(line, self.size.width, self.rich_style)
