"""`FilterLine`: where the filter is typed. It lists while one types; a wrong expression says why."""

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.message import Message
from textual.widgets import Input, Label

__all__ = ["FilterLine"]


class FilterLine(Horizontal):
    """Open while one types. `enter` keeps the filter, `esc` takes it away."""

    class Typed(Message):
        """The text changed."""

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Closed(Message):
        """The line was closed; the text stays as it is when `is_kept`."""

        def __init__(self, *, is_kept: bool) -> None:
            super().__init__()
            self.is_kept = is_kept

    def compose(self) -> ComposeResult:
        """Lay out the line."""
        yield Label(" / ")
        yield Input(placeholder="regular expression over names and types; ! inverts", compact=True)
        yield Label("", classes="problem", markup=False)

    def open(self, text: str) -> None:
        """Show the line, with this text to go on from."""
        self.add_class("is-open")
        field = self.query_one(Input)
        field.value = text
        field.focus()

    def close(self, *, is_kept: bool) -> None:
        """Hide the line."""
        self.remove_class("is-open")
        self.say("")
        self.post_message(self.Closed(is_kept=is_kept))

    def say(self, problem: str) -> None:
        """Show what is wrong with the expression."""
        self.query_one(".problem", Label).update(f" {problem} " if problem else "")

    @property
    def is_open(self) -> bool:
        """Whether one is typing."""
        return self.has_class("is-open")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Pass the text on."""
        event.stop()
        if self.is_open:
            self.post_message(self.Typed(event.value))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Keep the filter."""
        event.stop()
        self.close(is_kept=True)
