"""`CellWidget`: what all widgets share that draw cells: a style for each role, from the theme."""

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
    """Turns cells into a strip. The styles are made once a theme."""

    _styles: dict[Role, Style] | None = None

    def notify_style_update(self) -> None:
        """Forget the styles: the theme changed."""
        super().notify_style_update()
        self._styles = None

    def style_of(self, role: Role) -> Style:
        """Return the style of a role, to be laid over the background."""
        if self._styles is None:
            self._styles = role_styles(self.app.theme_variables)
        return self._styles[role]

    def strip_of(
        self, cells: Iterable[Cell], width: int, base: Style, over: Style | None = None
    ) -> Strip:
        """Return a line of exactly `width`. `over` is laid over all cells, as the cursor is."""
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
    """A widget of one line that is drawn again only when its cells change.

    A cell may have an action, by its place in the line; a click on it runs that.
    """

    _cells: tuple[Cell, ...] = ()
    _actions: Mapping[int, str] = {}

    def show(self, cells: tuple[Cell, ...], actions: Mapping[int, str] | None = None) -> None:
        """Draw these cells."""
        self._actions = actions or {}
        if cells != self._cells:
            self._cells = cells
            self.refresh()

    async def on_click(self, event: events.Click) -> None:
        """Run the action of the cell under the mouse."""
        end = 0
        for place, cell in enumerate(self._cells):
            end += len(cell.text)
            if event.x < end:
                if place in self._actions:
                    await self.app.run_action(self._actions[place])
                return

    @property
    def text(self) -> str:
        """What the line says."""
        return "".join(cell.text for cell in self._cells)

    def render_line(self, y: int) -> Strip:
        """Return the line."""
        if y:
            return Strip.blank(self.size.width, self.rich_style)
        return self.strip_of(self._cells, self.size.width, self.rich_style)


def spread(left: list[Cell], right: list[Cell], width: int) -> tuple[Cell, ...]:
    """Return cells with the right ones at the end of the line."""
    used = sum(len(cell.text) for cell in (*left, *right))
    return (*left, Cell(fit("", max(1, width - used))), *right)
