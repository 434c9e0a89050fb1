"""`FilterLine` is the input line of the filter. The table is filtered while the person types."""

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Input, Label

__all__ = ["FilterLine"]


class FilterLine(Horizontal):
    """Shown while the person types. `enter` keeps the filter, `esc` removes it: the main screen does both."""

    def compose(self) -> ComposeResult:
        """Create the line."""
        yield Label(" / ")
        yield Input(placeholder="regular expression over names and types; ! inverts", compact=True)
        yield Label("", classes="problem", markup=False)

    def open(self, text: str) -> None:
        """Show the line with this text."""
        self.add_class("is-open")
        field = self.query_one(Input)
        field.value = text
        field.focus()

    def close(self) -> None:
        """Hide the line."""
        self.remove_class("is-open")
        self.show_problem("")

    def show_problem(self, problem: str) -> None:
        """Show why the expression is invalid."""
        self.query_one(".problem", Label).update(f" {problem} " if problem else "")

    @property
    def is_open(self) -> bool:
        """Whether the line is shown."""
        return self.has_class("is-open")
