"""Widgets that draw cells: `CellWidget` maps each role to a style of the theme, `CellLines` shows lines."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.strip import Strip
from textual.widget import Widget

from gradscope_tui.theme import role_styles
from gradscope_tui.view.cell import Cell, Line, Role, text_of

__all__ = ["CellLines", "CellWidget", "Drawing"]

DrawLines: TypeAlias = Callable[[int, int], Sequence[Line]]
"""Returns the lines of a drawing for a width and a height."""


class CellWidget(Widget):
    """Converts cells to strips. The styles are cached until the theme changes."""

    _styles: dict[Role, Style] | None = None
    _drawn_styles: dict[tuple[Role, bool], Style] | None = None

    def notify_style_update(self) -> None:
        """Discard the styles when the theme or a class of the widget changes."""
        super().notify_style_update()
        self._styles = self._drawn_styles = None

    def style_of(self, role: Role) -> Style:
        """Return the style of a role, without the widget's background."""
        if self._styles is None:
            self._styles = role_styles(self.app.theme_variables)
        return self._styles[role]

    def strip_of(self, cells: Iterable[Cell], *, is_cursor: bool = False) -> Strip:
        """Return a line as wide as the widget. If `is_cursor`, it has the background of the cursor."""
        segments = [Segment(cell.text, self._drawn_style(cell.role, is_cursor)) for cell in cells]
        ground = self._drawn_style("normal", is_cursor)
        return Strip(segments).adjust_cell_length(self.size.width, ground).simplify()

    def _drawn_style(self, role: Role, is_cursor: bool) -> Style:
        """Return a role's style on the ground of the widget or of its cursor. It is kept: adding styles is slow."""
        if self._drawn_styles is None:
            self._drawn_styles = {}
        found = self._drawn_styles.get((role, is_cursor))
        if found is None:
            found = self.rich_style + self.style_of(role)
            if is_cursor and role not in ("bad", "alarm"):  # these have a ground of their own
                found += Style(bgcolor=self.style_of("chosen").bgcolor)
            self._drawn_styles[role, is_cursor] = found
        return found


class CellLines(CellWidget):
    """Lines of cells, redrawn only if they change.

    A cell of the first line can have an action, by its index in the line; a click on the cell runs it.
    """

    _lines: Sequence[Line] = ()
    _actions: Mapping[int, str] = {}

    def show(self, *lines: Line, actions: Mapping[int, str] | None = None) -> None:
        """Show these lines."""
        self._actions = actions or {}
        if lines != self._lines:
            is_as_high = len(lines) == len(self._lines)
            self._lines = lines
            self.refresh(layout=not is_as_high)

    async def on_click(self, event: events.Click) -> None:
        """Run the action of the clicked cell."""
        end = 0
        for place, cell in enumerate(self._lines[0] if self._actions else ()):
            end += len(cell.text)
            if event.x < end:
                if place in self._actions:
                    await self.app.run_action(self._actions[place])
                return

    def get_content_height(self, *_: object) -> int:
        """Return the number of lines."""
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        """Draw line `y`; a line after the last one is blank."""
        return self.strip_of(self._lines[y] if y < len(self._lines) else ())

    @property
    def text(self) -> str:
        """The text of all lines."""
        return "\n".join(map(text_of, self._lines))


class Drawing(CellLines):
    """Lines that a function draws for the size of the widget."""

    _draw: DrawLines | None = None
    _drawn_for: object = None

    def show_drawing(self, draw: DrawLines) -> None:
        """Show this drawing. It is drawn when the widget is."""
        self._draw = draw
        self.refresh()

    def render_line(self, y: int) -> Strip:
        """Draw the whole drawing if it or the size has changed; return its line `y`."""
        key = self._draw, self.size
        if self._draw is not None and key != self._drawn_for:
            self._lines, self._drawn_for = self._draw(*self.size), key
        return super().render_line(y)
