"""`FilterLine` is the input line of the filter. The table is filtered while the person types."""

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input, Label

__all__ = ["FilterLine"]


class FilterLine(Horizontal):
    """Shown while the person types. `enter` keeps the filter, `esc` removes it."""

    class Typed(Message):
        """The text changed."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Closed(Message):
        """The line was closed. If `is_kept` is true, the filter stays."""

        def __init__(self, *, is_kept: bool) -> None:
            super().__init__()
            self.is_kept = is_kept

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

    def close(self, *, is_kept: bool) -> None:
        """Hide the line."""
        self.remove_class("is-open")
        self.show_problem("")
        self.post_message(self.Closed(is_kept=is_kept))

    def show_problem(self, problem: str) -> None:
        """Show why the expression is invalid."""
        self.query_one(".problem", Label).update(f" {problem} " if problem else "")

    @property
    def is_open(self) -> bool:
        """Whether the line is shown."""
        return self.has_class("is-open")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Post `Typed` with the text."""
        event.stop()
        if self.is_open:
            self.post_message(self.Typed(event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter."""
        event.stop()
        self.close(is_kept=True)
