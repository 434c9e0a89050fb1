"""`Choice`: one line with a few options, selected with left and right."""

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.reactive import reactive
from textual.strip import Strip

from gradscope_tui.view.cell import Cell, Role
from gradscope_tui.widgets.cell_widget import CellWidget

__all__ = ["Choice"]

_GAP = 2
_AROUND = 4 + _GAP
"""The width of an option's mark and of the gap to the next option."""


class Choice(CellWidget, can_focus=True):
    """Shows all options, with the selected one marked; if they do not fit, only the selected one."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "turn(-1)", show=False),
        Binding("right,l,space", "turn(1)", show=False),
    ]

    chosen: reactive[int] = reactive(0)

    class Changed(Message):
        """Another option was selected."""

    def __init__(self, options: Sequence[str], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.options = tuple(options)

    def render_line(self, y: int) -> Strip:
        """Draw the options, with the selected one marked."""
        if y:
            return self.strip_of(())
        if self._is_narrow:
            return self.strip_of(self._one_of_many())
        cells: list[Cell] = []
        for place, option in enumerate(self.options):
            is_chosen = place == self.chosen
            role: Role = "chosen" if is_chosen else "dim"
            cells += [Cell(f"({'●' if is_chosen else ' '}) {option}", role), Cell("  ")]
        return self.strip_of(cells)

    @property
    def _is_narrow(self) -> bool:
        needed = sum(len(option) + _AROUND for option in self.options) - _GAP
        return needed > self.size.width

    def _one_of_many(self) -> list[Cell]:
        many = f"  {self.chosen + 1} of {len(self.options)}"
        return [Cell(f"← {self.options[self.chosen]} →", "chosen"), Cell(many, "dim")]

    def watch_chosen(self) -> None:
        """Post `Changed`."""
        self.post_message(self.Changed())

    def action_turn(self, distance: int) -> None:
        """Select the next or the previous option."""
        self.chosen = (self.chosen + distance) % len(self.options)

    def on_click(self, event: events.Click) -> None:
        """Select the clicked option, or the next one if only one is shown."""
        if self._is_narrow:
            self.action_turn(1)
            return
        end = 0
        for place, option in enumerate(self.options):
            end += len(option) + _AROUND
            if event.x < end:
                self.chosen = place
                return
