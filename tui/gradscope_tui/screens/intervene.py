"""`InterveneScreen`: from `i` to a change in two or three keys.

First a letter chooses what to do; then a form shows its value and its end, and says in one sentence
what will happen. That sentence is the question: `enter` answers it, there is no second one.
"""

import math
from dataclasses import replace
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from gradscope_tui.changes import Change
from gradscope_tui.store import Frame
from gradscope_tui.view.defaults import default_value
from gradscope_tui.view.words import ACTIONS, Action, action_named, layers_in_words, sentence
from gradscope_tui.widgets.choice import Choice

__all__ = ["InterveneScreen"]

_ENDS = ("while I watch", "keep", "for steps:")
_END_WORDS = ("it ends 60 s after this viewer has gone", "it stays until it is removed")
_DEFAULT_STEPS = "100"


class InterveneScreen(ModalScreen[Change | None]):
    """Answers with the change, or None."""

    AUTO_FOCUS = ""
    # Bindings, and no handler of keys: those typed while the screen is made are looked up here, too.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "cancel", show=False),
        Binding("enter", "apply", show=False),
        Binding("down", "app.focus_next", show=False),
        Binding("up", "app.focus_previous", show=False),
        *(Binding(action.key, f"choose('{action.name}')", show=False) for action in ACTIONS),
    ]

    def __init__(self, layers: tuple[str, ...], frame: Frame | None) -> None:
        super().__init__()
        self._layers = layers
        self._frame = frame
        self._action: Action | None = None

    def compose(self) -> ComposeResult:
        """Lay out the choice of the action, and the form, which is hidden at first."""
        card = Vertical(classes="card is-change")
        card.border_title = f"change the gradient of {layers_in_words(self._layers, 2)}"
        with card:
            with Vertical(id="actions"):
                lines = "\n".join(
                    f"  [b $primary]{a.key}[/]   {a.name:<9}[$gs-dim]{a.meaning}[/]" for a in ACTIONS
                )
                yield Static(lines)
            with Vertical(id="form"):
                with Horizontal(classes="row", id="value-row"):
                    yield Label("", id="value-name")
                    yield Input(compact=True, id="value")
                with Horizontal(classes="row"):
                    yield Label("until")
                    yield Choice(_ENDS, id="end")
                with Horizontal(classes="row", id="steps-row"):
                    yield Label("steps")
                    yield Input(_DEFAULT_STEPS, compact=True, type="integer", id="steps")
                yield Static("", classes="sentence", id="sentence", markup=False)
                yield Static("", classes="problem", id="problem", markup=False)
        card.border_subtitle = "a letter chooses · esc cancels"

    def on_mount(self) -> None:
        """Show the first part only."""
        self.query_one("#form").display = False

    def action_choose(self, name: str) -> None:
        """Choose what to do; the form follows."""
        action = action_named(name)
        if self._action is None and action is not None:
            self._open_form(action)

    def _open_form(self, action: Action) -> None:
        self._action = action
        card = self.query_one(".card")
        card.border_title = f"{action.verb} the gradient of {layers_in_words(self._layers, 2)}"
        card.border_subtitle = "enter applies · tab next field · ← → choose · esc cancels"
        self.query_one("#actions").display = False
        self.query_one("#form").display = True
        self.query_one("#value-row").display = bool(action.argument)
        self.query_one("#value-name", Label).update(action.argument.replace("_", " "))
        value = self.query_one("#value", Input)
        if action.argument:
            value.value = f"{default_value(action.name, self._frame, self._layers):g}"
            self.set_focus(value)
        else:
            self.set_focus(self.query_one("#end"))
        self._tell()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Say the sentence anew."""
        event.stop()
        self._tell()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Apply."""
        event.stop()
        self.action_apply()

    def on_choice_changed(self) -> None:
        """Say the sentence anew."""
        self._tell()

    def action_cancel(self) -> None:
        """Close without a change."""
        self.dismiss(None)

    def _tell(self) -> None:
        if self._action is None:
            return
        end = self.query_one("#end", Choice).chosen
        self.query_one("#steps-row").display = end == 2
        change, problem = self._read(self._action)
        self.query_one("#problem", Static).update(problem)
        if change is not None:
            value = change.arguments[0][1] if change.arguments else None
            ends = f"it ends after {change.end_steps:,} steps" if change.end_steps else _END_WORDS[end]
            text = sentence(self._action, value, self._layers, ends)
            self.query_one("#sentence", Static).update(text)

    def _read(self, action: Action) -> tuple[Change | None, str]:
        """Return the change that the form says, or what is wrong with it."""
        arguments: tuple[tuple[str, float], ...] = ()
        if action.argument:
            value = _number(self.query_one("#value", Input).value)
            may_be_negative = action.name in ("scale", "reverse")
            if value is None or (value <= 0 and not may_be_negative):
                wanted = "a number" if may_be_negative else "a number above 0"
                return None, f"{action.argument.replace('_', ' ')}: expected {wanted}"
            arguments = ((action.argument, value),)
        end = self.query_one("#end", Choice).chosen
        steps = _steps(self.query_one("#steps", Input).value) if end == 2 else None
        if end == 2 and steps is None:
            return None, "steps: expected a whole number of at least 1"
        change = Change("install", action.name, arguments, self._layers, end_steps=steps)
        return replace(change, is_kept=end == 1), ""

    def action_apply(self) -> None:
        """Answer with the change that the sentence says."""
        if self._action is None:
            return
        change, problem = self._read(self._action)
        if change is None:
            self.query_one("#problem", Static).update(problem)
        else:
            self.dismiss(change)


def _number(text: str) -> float | None:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _steps(text: str) -> int | None:
    return int(text) if text.isdecimal() and int(text) >= 1 else None
