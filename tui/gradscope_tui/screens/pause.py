"""`PauseScreen`: asked once before the training is made to stand: `P` is a key away from `p`."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

__all__ = ["PauseScreen"]


class PauseScreen(ModalScreen[bool]):
    """Answers whether to pause the training."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,y,P", "decide(True)", show=False),
        Binding("escape,n,q", "decide(False)", show=False),
    ]

    def compose(self) -> ComposeResult:
        """Lay out the question."""
        card = Vertical(classes="card is-change")
        card.border_title = "pause the training?"
        card.border_subtitle = "enter pauses · esc does not"
        with card:
            yield Static(
                "It stands from the next step boundary on, and is held while this screen is open.\n"
                "It goes on by itself within 60 s when this screen has gone.",
                markup=False,
            )

    def action_decide(self, is_wanted: bool) -> None:
        """Answer."""
        self.dismiss(is_wanted)
