"""`CardScreen` shows a text in a frame above the page, and waits for a key."""

from collections.abc import Mapping

from textual import events
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

__all__ = ["CardScreen", "wide_text_width"]

_WIDTH, _FRAME = 120, 7
"""The greatest width of a wide card, and that of its border, padding and scroll bar."""


def wide_text_width(screen: int) -> int:
    """Return the width of the text of a wide card on a screen of that width."""
    return max(20, min(screen, _WIDTH) - _FRAME)


class CardScreen(ModalScreen[str]):
    """Returns the answer of the pressed key; other keys only scroll.

    `answers` has the answer of each key, by Textual's name of the key; `hint` names the keys for people.
    """

    def __init__(
        self, id: str, title: str, text: str | Content, answers: Mapping[str, str], hint: str
    ) -> None:
        super().__init__(id=id)
        self._title, self._text, self._answers, self._hint = title, text, answers, hint

    def compose(self) -> ComposeResult:
        """Create the card."""
        card = VerticalScroll(classes="card")
        card.border_title, card.border_subtitle = self._title, self._hint
        with card:
            yield Static(self._text, markup=False)

    def on_key(self, event: events.Key) -> None:
        """Close with the answer of the key."""
        if event.key in self._answers:
            event.stop()
            self.dismiss(self._answers[event.key])
