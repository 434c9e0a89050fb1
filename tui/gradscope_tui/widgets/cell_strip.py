"""`CellWidget`, the base of the widgets that draw cells; it maps each role to a style of the theme."""

from collections.abc import Iterable, Mapping

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.strip import Strip
from textual.widget import Widget

from gradscope_tui.theme import role_styles
from gradscope_tui.view.cell import Cell, Role, fit

__all__ = ["CellWidget", "OneLine", "spread"]


class CellWidget(Widget):
    """Converts cells to strips. The styles are cached until the theme changes."""

    _styles: dict[Role, Style] | None = None

    def notify_style_update(self) -> None:
        """Discard the styles when the theme changes."""
        super().notify_style_update()
        self._styles = None

    def style_of(self, role: Role) -> Style:
        """Return the style of a role, without the widget's background."""
        if self._styles is None:
            self._styles = role_styles(self.app.theme_variables)
        return self._styles[role]

    def strip_of(
        self, cells: Iterable[Cell], width: int, base: Style, over: Style | None = None
    ) -> Strip:
        """Return a line of `width` cells. `over` is a style added to all cells, such as the cursor's."""
        segments = []
        for cell in cells:
            style = base + self.style_of(cell.role)
            has_own_ground = cell.role in ("bad", "alarm")
            segments.append(
                Segment(cell.text, style if over is None or has_own_ground else style + over)
            )
        ground = base if over is None else base + over
        return Strip(segments).adjust_cell_length(width, ground).simplify()


class OneLine(CellWidget):
    """A widget of one line that is redrawn only if its cells change.

    A cell can have an action, by its index in the line; a click on the cell runs it.
    """

    _cells: tuple[Cell, ...] = ()
    _actions: Mapping[int, str] = {}

    def show(self, cells: tuple[Cell, ...], actions: Mapping[int, str] | None = None) -> None:
        """Show these cells."""
        self._actions = actions or {}
        if cells != self._cells:
            self._cells = cells
            self.refresh()

    async def on_click(self, event: events.Click) -> None:
        """Run the action of the clicked cell."""
        end = 0
        for place, cell in enumerate(self._cells):
            end += len(cell.text)
            if event.x < end:
                if place in self._actions:
                    await self.app.run_action(self._actions[place])
                return

    @property
    def text(self) -> str:
        """The text of the line."""
        return "".join(cell.text for cell in self._cells)

    def render_line(self, y: int) -> Strip:
        """Draw the cells of the last call of `show`."""
        if y:
            return Strip.blank(self.size.width, self.rich_style)
        return self.strip_of(self._cells, self.size.width, self.rich_style)


def spread(left: list[Cell], right: list[Cell], width: int) -> tuple[Cell, ...]:
    """Return a line with `right` aligned at its end."""
    used = sum(len(cell.text) for cell in (*left, *right))
    return (*left, Cell(fit("", max(1, width - used))), *right)
