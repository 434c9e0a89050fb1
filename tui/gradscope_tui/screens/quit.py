"""`QuitScreen`: asks what to do with this viewer's active interventions before it quits."""

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
    """Returns what to do with the interventions."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l,enter", "decide('leave')", show=False),
        Binding("r", "decide('remove')", show=False),
        Binding("escape", "decide('stay')", show=False),
    ]

    def __init__(self, states: Sequence[InterventionState]) -> None:
        super().__init__()
        self._states = tuple(states)

    def compose(self) -> ComposeResult:
        """Create the question."""
        card = Vertical(classes="card is-change")
        card.border_title = "interventions are still active"
        card.border_subtitle = "esc does not quit"
        with card:
            yield Static("\n".join(whole_line(state) for state in self._states), markup=False)
            yield Static(
                "\n  [b $primary]r[/]   remove, then quit"
                "\n  [b $primary]l[/]   leave them: they end 60 s after this viewer has gone"
            )

    def action_decide(self, decision: Decision) -> None:
        """Close with the answer."""
        self.dismiss(decision)
