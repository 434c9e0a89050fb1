"""`RuleScreen` is the form for a rule: what is checked while it is typed, tried on the past, and what it then does."""

from collections.abc import Callable
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.suggester import SuggestFromList
from textual.widgets import Input, Label, Static

from gradscope.errors import GradscopeError, UsageError
from gradscope.protocol import Command, RuleSetting, RuleState
from gradscope.rules import ACTIONS, RULES, Rule, check_action
from gradscope_tui.store.run import RunStore
from gradscope_tui.view.condition_trial import rule_of, rule_past_text
from gradscope_tui.widgets.choice import Choice

__all__ = ["RuleScreen"]

_ACTIONS = tuple(action for action in ACTIONS if action != "raise")
_ENDS = ("while I watch", "keep")
_EXAMPLES = 'a rule: {}; or a condition: loss > 10, grad["blocks.3.*"].norm > 100, any.nan'
_FIELDS = (
    ("rule", "rule", "exploding, or a condition: loss > 10"),
    ("limit", "threshold", "the rule's own"),
    ("for steps", "patience", "as the evidence needs"),
    ("layers", "layers", "all"),
)


class RuleScreen(ModalScreen[Command | None]):
    """Returns the command that sets the rule, or None. `edited` is the rule with which the form begins."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", show=False),
        Binding("enter", "apply", show=False),
        Binding("down", "app.focus_next", show=False),
        Binding("up", "app.focus_previous", show=False),
    ]

    def __init__(
        self, find_store: Callable[[], RunStore | None], edited: RuleState | None = None
    ) -> None:
        super().__init__()
        self._find_store = find_store
        self._edited = edited

    def compose(self) -> ComposeResult:
        """Create the fields, and the texts below them."""
        setting = self._edited.setting if self._edited else RuleSetting("")
        values = (
            setting.rule,
            " ".join(f"{number:g}" for number in setting.threshold),
            "" if setting.patience is None else str(setting.patience),
            " ".join(setting.layers),
        )
        card = Vertical(classes="card")
        card.border_title = "a rule: if this is found, do that"
        card.border_subtitle = "↑ ↓ fields · ← → choose · enter sets it · esc cancels"
        suggester = SuggestFromList(RULES, case_sensitive=False)
        with card:
            for (title, name, hint), value in zip(_FIELDS, values, strict=True):
                with Horizontal(classes="row"):
                    yield Label(title)
                    own = suggester if name == "rule" else None
                    yield Input(
                        value, hint, compact=True, select_on_focus=False, suggester=own, id=name
                    )
            with Horizontal(classes="row"):
                yield Label("then")
                yield Choice(_ACTIONS, id="action")
            with Horizontal(classes="row"):
                yield Label("until")
                yield Choice(_ENDS, id="end")
            yield Static(classes="note", id="meaning", markup=False)
            yield Static(classes="sentence", id="past", markup=False)
            yield Static(classes="problem", id="problem", markup=False)

    def on_mount(self) -> None:
        """Select action and end of the edited rule; the cursor is at the end of its text."""
        edited = self._edited
        if edited is not None:
            action = edited.setting.action
            self.query_one("#action", Choice).chosen = (
                _ACTIONS.index(action) if action in _ACTIONS else 0
            )
            self.query_one("#end", Choice).chosen = int(not edited.end)
        self.query_one("#rule", Input).action_end()
        self._check()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Check the rule, and try it on the past steps."""
        event.stop()
        self._check()

    def on_choice_changed(self) -> None:
        """Check whether the rule can have this action."""
        self._check()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Set the rule if it is valid."""
        event.stop()
        self.action_apply()

    def action_apply(self) -> None:
        """Return the command if the rule is valid."""
        setting = self._check()
        if setting is not None:
            is_kept = _ENDS[self.query_one("#end", Choice).chosen] == "keep"
            self.dismiss(Command(action="rule", rule=setting, is_kept=is_kept))

    def action_cancel(self) -> None:
        """Close without a rule."""
        self.dismiss(None)

    def _check(self) -> RuleSetting | None:
        """Show what the rule means and what it would have done, or why it cannot be; return a valid setting."""
        store = self._find_store()
        action = _ACTIONS[self.query_one("#action", Choice).chosen]
        texts = {name: self.query_one(f"#{name}", Input).value.strip() for _, name, _ in _FIELDS}
        meaning, past, problem, setting = _EXAMPLES.format(", ".join(RULES)), "", "", None
        if store is not None and texts["rule"]:
            try:
                setting = _setting_of(texts, action)
                rule = rule_of(setting, store)
                check_action(rule, action, world_size=store.ranks.size)
                meaning, past = _meaning(rule, action), rule_past_text(rule, store)
            except GradscopeError as error:
                problem, setting = str(error), None
        self.query_one("#meaning", Static).update(meaning)
        self.query_one("#past", Static).update(past)
        self.query_one("#problem", Static).update(problem)
        return setting


def _setting_of(texts: dict[str, str], action: str) -> RuleSetting:
    """Return the setting of the typed texts. Raises UsageError for a text that is not a number."""
    words = texts["threshold"].replace(",", " ").replace(":", " ").split()
    try:
        threshold = tuple(float(word) for word in words)
    except ValueError:
        raise UsageError(
            f"expected the limit to be a number or two, got {texts['threshold']!r}"
        ) from None
    if len(threshold) > 2:
        raise UsageError(f"expected the limit to be a number or two, got {len(threshold)} numbers")
    patience = texts["patience"]
    if patience and not patience.isdecimal():
        raise UsageError(f"expected a number of observed steps of at least 1, got {patience!r}")
    layers = tuple(texts["layers"].replace(",", " ").split())
    return RuleSetting(texts["rule"], action, threshold, int(patience) if patience else None, layers)


def _meaning(rule: Rule, action: str) -> str:
    """Return what the rule finds, with its limit, and what then happens."""
    limit = rule.threshold
    limits = f"{limit[0]:g} to {limit[1]:g}" if isinstance(limit, tuple) else f"{limit:g}"
    finds = (
        "when it becomes true"
        if rule.condition
        else f"{rule.kind.meaning.replace('`threshold`', limits)}"
    )
    return f"{finds}. Then: {ACTIONS[action]}."
