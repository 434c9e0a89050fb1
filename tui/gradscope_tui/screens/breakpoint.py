"""`BreakpointScreen` is the form for a breakpoint: its condition is checked and tried on the past while it is typed."""

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from gradscope_tui.store.run import RunStore
from gradscope_tui.view.condition_trial import condition_problem, past_text

__all__ = ["BreakpointScreen"]

_EXAMPLES = (
    'grad["blocks.3.*"].norm > 100     the gradient of these layers\n'
    'out["head"].std < 1e-3            the output of a layer\n'
    "any.nan or loss > 10              conditions with and, or\n"
    "step == 500                       before that step"
)


class BreakpointScreen(ModalScreen[str | None]):
    """Returns the condition, or None if canceled. `condition`: the condition of the breakpoint to edit."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "cancel", show=False)]

    def __init__(self, find_store: Callable[[], RunStore | None], condition: str = "") -> None:
        super().__init__()
        self._find_store = find_store
        self._condition = condition

    def compose(self) -> ComposeResult:
        """Create the field, and the texts below it."""
        card = Vertical(classes="card")
        card.border_title = "pause the training when this becomes true"
        card.border_subtitle = "enter sets it · esc cancels"
        with card:
            with Horizontal(classes="row"):
                yield Label("condition")
                yield Input(self._condition, compact=True, select_on_focus=False, id="condition")
            yield Static(_EXAMPLES, classes="note", markup=False)
            yield Static("", classes="sentence", id="past", markup=False)
            yield Static("", classes="problem", id="problem", markup=False)

    def on_mount(self) -> None:
        """Check the condition that is edited; the cursor is at its end."""
        self.query_one("#condition", Input).action_end()
        self._check()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Check the condition, and try it on the past steps."""
        event.stop()
        self._check()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Return the condition if it is valid."""
        event.stop()
        if self._check():
            self.dismiss(self.query_one("#condition", Input).value.strip())

    def action_cancel(self) -> None:
        """Close without a breakpoint."""
        self.dismiss(None)

    def _check(self) -> bool:
        store, text = self._find_store(), self.query_one("#condition", Input).value.strip()
        problem = condition_problem(text, store) if store is not None and text else ""
        is_valid = bool(text) and store is not None and not problem
        self.query_one("#problem", Static).update(problem)
        past = past_text(text, store) if is_valid and store is not None else ""
        self.query_one("#past", Static).update(past)
        return is_valid
