"""`QuitScreen`: asked once, when one quits while changes of this viewer are in force."""

from collections.abc import Sequence
from typing import ClassVar, Literal, TypeAlias

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from gradscope.protocol import InterventionState
from gradscope_tui.view.intervention_text import whole_line

__all__ = ["Decision", "QuitScreen"]

Decision: TypeAlias = Literal["leave", "remove", "stay"]


class QuitScreen(ModalScreen[Decision]):
    """Answers what to do with the changes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l,enter", "decide('leave')", show=False),
        Binding("r", "decide('remove')", show=False),
        Binding("escape", "decide('stay')", show=False),
    ]

    def __init__(self, states: Sequence[InterventionState]) -> None:
        super().__init__()
        self._states = tuple(states)

    def compose(self) -> ComposeResult:
        """Lay out the question."""
        card = Vertical(classes="card is-change")
        card.border_title = "still in force"
        card.border_subtitle = "esc stays here"
        with card:
            yield Static("\n".join(whole_line(state) for state in self._states), markup=False)
            yield Static(
                "\n  [b $primary]r[/]   remove, then quit"
                "\n  [b $primary]l[/]   leave as it is: it ends 60 s after this viewer has gone"
            )

    def action_decide(self, decision: Decision) -> None:
        """Answer."""
        self.dismiss(decision)
