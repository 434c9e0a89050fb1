"""`PauseScreen` asks before training is paused, because `P` is easily typed instead of `p`."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

__all__ = ["PauseScreen"]


class PauseScreen(ModalScreen[bool]):
    """Asks for confirmation; the result is true if training is to be paused."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter,y,P", "decide(True)", show=False),
        Binding("escape,n,q", "decide(False)", show=False),
    ]

    def compose(self) -> ComposeResult:
        """Create the question."""
        card = Vertical(classes="card is-change")
        card.border_title = "pause the training?"
        card.border_subtitle = "enter pauses · esc cancels"
        with card:
            yield Static(
                "Training pauses after the current step, while this screen is open.\n"
                "It resumes automatically 60 s after the screen closes.",
                markup=False,
            )

    def action_decide(self, is_wanted: bool) -> None:
        """Close with the answer."""
        self.dismiss(is_wanted)
