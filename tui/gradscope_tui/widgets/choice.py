"""`Choice`: one line to choose one of a few, with left and right."""

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip

from gradscope_tui.view.cell import Cell, Role
from gradscope_tui.widgets.cell_strip import CellWidget

__all__ = ["Choice"]


class Choice(CellWidget, can_focus=True):
    """Shows all options, the chosen one filled."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "turn(-1)", show=False),
        Binding("right,l,space", "turn(1)", show=False),
    ]

    chosen: reactive[int] = reactive(0)

    class Changed(Message):
        """Another option was chosen."""

    def __init__(self, options: Sequence[str], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.options = tuple(options)

    def render_line(self, y: int) -> Strip:
        """Return the line."""
        if y:
            return Strip.blank(self.size.width, self.rich_style)
        cells: list[Cell] = []
        for place, option in enumerate(self.options):
            is_chosen = place == self.chosen
            role: Role = "chosen" if is_chosen else "dim"
            cells += [Cell(f"({'●' if is_chosen else ' '}) {option}", role), Cell("  ")]
        return self.strip_of(cells, self.size.width, self.rich_style)

    def watch_chosen(self) -> None:
        """Tell of the choice."""
        self.post_message(self.Changed())

    def action_turn(self, distance: int) -> None:
        """Choose the next or the previous."""
        self.chosen = (self.chosen + distance) % len(self.options)

    def on_click(self, event: events.Click) -> None:
        """Choose what the mouse points at."""
        end = 0
        for place, option in enumerate(self.options):
            end += len(option) + 6
            if event.x < end:
                self.chosen = place
                return
