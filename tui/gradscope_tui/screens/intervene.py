"""`InterveneScreen`: the form for a new intervention. After `i`, two or three key presses are enough.

A key selects the action. The form then shows its arguments, where it applies and when it ends, and one
sentence that says what will happen. `enter` applies the intervention without a further question. The
actions and their fields come from the run's manifest.
"""

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input, Label, Static

from gradscope.catalogue import INTERVENTIONS, InterventionSpec
from gradscope.errors import UsageError
from gradscope.names import counted
from gradscope.protocol import (
    ActionInfo,
    ArgumentInfo,
    Command,
    InterventionState,
    Schedule,
    parse_ramp,
)
from gradscope_tui.store.measure import Frame
from gradscope_tui.view.fields import count_of, number_of, suggested_value
from gradscope_tui.view.intervention_text import effect_sentence, layers_in_words, specs_of
from gradscope_tui.widgets.choice import Choice

__all__ = ["InterveneScreen"]

_ENDS = ("while I watch", "keep", "for steps:")
_END_WORDS = ("it ends 60 s after this viewer has disconnected", "it stays until it is removed")
_DEFAULT_STEPS = "100"
_YES = ("no", "yes")
_WHEN = (("from step", "start"), ("every", "every"), ("ramp", "ramp"), ("while", "while"))
_HINTS = {"start": "the next", "every": "1", "ramp": "{}=0:1:1000", "while": "norm > 10"}
_NUMBERS = ("number", "whole")
_SHORT_SCREEN = 22


class InterveneScreen(ModalScreen[Command | None]):
    """Returns the command to send, or None. With `edited`, the form begins with the values of that intervention."""

    AUTO_FOCUS = ""
    # Bindings instead of a key handler: keys typed while the screen is being mounted reach them, too.
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q", "cancel", show=False),
        Binding("enter", "apply", show=False),
        Binding("down", "app.focus_next", show=False),
        Binding("up", "app.focus_previous", show=False),
        *(
            Binding(key, f"choose('{key}')", show=False)
            for key in (*(spec.key for spec in INTERVENTIONS.values()), *"123456789")
        ),
    ]

    def __init__(
        self,
        layers: tuple[str, ...],
        frame: Frame | None,
        actions: tuple[ActionInfo, ...],
        edited: InterventionState | None = None,
    ) -> None:
        super().__init__()
        self._edited = edited
        self._layers = layers
        self._frame = frame
        self._possible = specs_of(actions)
        self._chosen: tuple[InterventionSpec, ActionInfo] | None = None

    def compose(self) -> ComposeResult:
        """Create the list of actions, and the form, which is hidden at first."""
        card = Vertical(classes="card")
        card.border_title = f"intervene at {layers_in_words(self._layers, 2)}"
        with card:
            with Vertical(id="actions"):
                yield Static(self._list_of_actions())
            with VerticalScroll(id="form", can_focus=False):
                yield Vertical(id="arguments")
                with Horizontal(classes="row"):
                    yield Label("until")
                    yield Choice(_ENDS, id="end")
                with Horizontal(classes="row", id="steps-row"):
                    yield Label("steps")
                    yield Input(_DEFAULT_STEPS, compact=True, type="integer", id="steps")
                yield Horizontal(classes="row", id="site-row")
                for title, name in _WHEN:
                    with Horizontal(classes="row", id=f"{name}-row"):
                        yield Label(title)
                        yield Input(placeholder=_HINTS[name], compact=True, id=name)
            with Vertical(id="answer"):
                yield Static("", classes="sentence", id="sentence", markup=False)
                yield Static("", classes="problem", id="problem", markup=False)
        card.border_subtitle = "a key selects · esc cancels"

    def _list_of_actions(self) -> str:
        lines = [
            f"  [b $primary]{spec.key}[/]   {spec.name:<19}[$gs-dim]{spec.menu}[/]"
            for spec, _ in self._possible
        ]
        return "\n".join(lines) or "  This run lists no actions."

    async def on_mount(self) -> None:
        """Show the list of actions only; for an intervention that is edited, its form."""
        self.query_one("#form").display = self.query_one("#answer").display = False
        self.set_class(self.app.size.height < _SHORT_SCREEN, "is-short")
        edited = self._edited
        found = next((p for p in self._possible if edited and p[0].name == edited.action), None)
        if edited is not None and found is not None:
            self._chosen = found
            await self._open_form(*found)
            self._fill_in(edited)

    def on_resize(self, event: events.Resize) -> None:
        """Fit the form to the new size."""
        self.set_class(event.size.height < _SHORT_SCREEN, "is-short")
        self.call_after_refresh(self._fit_height)

    def _fit_height(self) -> None:
        """Limit the height of the fields, which scroll, so that the sentence is always shown in full."""
        card = self.query_one(".card")
        around = card.outer_size.height - card.size.height
        left = self.size.height - around - self.query_one("#answer").outer_size.height
        self.query_one("#form").styles.max_height = max(1, left)
        if self.focused is not None:
            self.focused.scroll_visible(animate=False)

    async def action_choose(self, key: str) -> None:
        """Select an action and open its form."""
        found = next((pair for pair in self._possible if pair[0].key == key), None)
        if self._chosen is None and found is not None:
            self._chosen = found
            await self._open_form(*found)

    async def _open_form(self, spec: InterventionSpec, info: ActionInfo) -> None:
        card = self.query_one(".card")
        subject = "the gradient" if info.what != "value" else "the output"
        card.border_title = f"{spec.verb} {subject} of {layers_in_words(self._layers, 2)}"
        card.border_subtitle = "enter applies · tab next field · ← → select · esc cancels"
        self.query_one("#actions").display = False
        rows = [self._argument_row(spec, argument) for argument in info.arguments]
        await self.query_one("#arguments").mount_all(rows)
        sites = self.query_one("#site-row")
        await sites.mount_all([Label("site"), Choice(info.sites, id="site")])
        sites.display = len(info.sites) > 1
        numbers = [argument.name for argument in info.arguments if argument.kind in _NUMBERS]
        self.query_one("#ramp", Input).placeholder = _HINTS["ramp"].format(*numbers[:1] or [""])
        self.query_one("#ramp-row").display = bool(numbers)
        self.query_one("#form").display = self.query_one("#answer").display = True
        has_fields = bool(info.arguments)
        self.set_focus(self.query_one(f"#{_field_id(info.arguments[0])}" if has_fields else "#end"))
        self._update_sentence()

    def _fill_in(self, edited: InterventionState) -> None:
        """Fill the fields with the values of an intervention."""
        self.query_one(".card").border_subtitle = "enter replaces it · tab next field · esc cancels"
        sites, end = self.query_one("#site", Choice), self.query_one("#end", Choice)
        sites.chosen = sites.options.index(edited.site) if edited.site in sites.options else 0
        end.chosen = int(edited.end == "kept")
        schedule = edited.schedule or Schedule()
        ramp = schedule.ramp
        values = {
            "start": "" if schedule.start_step is None else str(schedule.start_step),
            "every": "" if schedule.every_steps == 1 else str(schedule.every_steps),
            "ramp": f"{ramp.argument}={ramp.start:g}:{ramp.end:g}:{ramp.steps}" if ramp else "",
            "while": schedule.condition,
        }
        for name, text in values.items():
            self.query_one(f"#{name}", Input).value = text
        for name, value in {**edited.arguments, **edited.choices}.items():
            field = self.query_one(f"#argument-{name}")
            if isinstance(field, Input):
                field.value = f"{value:g}" if isinstance(value, float) else str(value)
            elif isinstance(field, Choice):
                field.chosen = int(value) if isinstance(value, float) else field.options.index(value)
        self._update_sentence()

    def _argument_row(self, spec: InterventionSpec, argument: ArgumentInfo) -> Horizontal:
        """Return the form row of one argument, which holds an input line or a choice."""
        label, field = Label(argument.name.replace("_", " ")), _field_id(argument)
        if argument.kind in ("choice", "yes"):
            options = argument.options if argument.kind == "choice" else _YES
            choice = Choice(options, id=field)
            first = options.index(argument.chosen) if argument.chosen in options else 0
            choice.chosen = int(argument.default or 0) if argument.kind == "yes" else first
            return Horizontal(label, choice, classes="row")
        value = argument.default
        if value is None:
            value = suggested_value(spec.name, argument.name, self._frame, self._layers)
        shown = "" if value is None else f"{value:g}"
        return Horizontal(label, Input(shown, compact=True, id=field), classes="row")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Update the sentence that says what will happen."""
        event.stop()
        self._update_sentence()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Apply the intervention."""
        event.stop()
        self.action_apply()

    def on_choice_changed(self) -> None:
        """Update the sentence that says what will happen."""
        self._update_sentence()

    def action_cancel(self) -> None:
        """Close without a change."""
        self.dismiss(None)

    def _update_sentence(self) -> None:
        if self._chosen is None or not self.query("#site"):
            return
        end = self.query_one("#end", Choice).chosen
        self.query_one("#steps-row").display = end == 2
        command, problem = self._read_command()
        self.query_one("#problem", Static).update(problem)
        self.call_after_refresh(self._fit_height)
        if command is not None:
            ends = (
                f"it ends after {counted(command.end_steps, 'step')}"
                if command.end_steps
                else _END_WORDS[end]
            )
            self.query_one("#sentence", Static).update(effect_sentence(*self._chosen, command, ends))

    def _read_command(self) -> tuple[Command | None, str]:
        """Return the command that the form describes; if a field is invalid, None and the reason."""
        if self._chosen is None:
            return None, ""
        spec, info = self._chosen
        try:
            numbers = self._read_numbers(info)
            steps = self._read_steps()
            schedule = self._read_schedule()
        except UsageError as error:
            return None, str(error)
        command = Command(
            action="install",
            intervention=spec.name,
            arguments=numbers,
            choices={
                a.name: self._selected_option(_field_id(a))
                for a in info.arguments
                if a.kind == "choice"
            },
            layers=self._layers,
            site=self._selected_option("site"),
            end_steps=steps,
            is_kept=self.query_one("#end", Choice).chosen == 1,
            schedule=schedule,
        )
        return command, ""

    def _read_steps(self) -> int | None:
        """Return after how many steps the intervention ends, or None. Raises UsageError if invalid."""
        if self.query_one("#end", Choice).chosen != 2:
            return None
        steps = count_of(self.query_one("#steps", Input).value)
        if not steps:
            raise UsageError("steps: expected an integer of at least 1")
        return steps

    def _selected_option(self, field: str) -> str:
        choice = self.query_one(f"#{field}", Choice)
        return choice.options[choice.chosen]

    def _read_numbers(self, info: ActionInfo) -> dict[str, float]:
        """Return the numeric arguments. Raises UsageError for an invalid number."""
        found: dict[str, float] = {}
        for argument in info.arguments:
            if argument.kind == "yes":
                found[argument.name] = float(self.query_one(f"#{_field_id(argument)}", Choice).chosen)
            elif argument.kind != "choice":
                text = self.query_one(f"#{_field_id(argument)}", Input).value
                found[argument.name] = number_of(argument, text)
        return found

    def _read_schedule(self) -> Schedule | None:
        """Return the schedule from the last fields. Raises UsageError for an invalid field."""
        typed = {name: self.query_one(f"#{name}", Input).value.strip() for _, name in _WHEN}
        counts = {name: count_of(typed[name]) for name in ("start", "every") if typed[name]}
        if None in counts.values() or counts.get("every") == 0:
            raise UsageError("from step, every: expected integers")
        schedule = Schedule(
            start_step=counts.get("start"),
            every_steps=counts.get("every") or 1,
            ramp=parse_ramp(typed["ramp"]) if typed["ramp"] else None,
            condition=typed["while"],
        )
        return None if schedule == Schedule() else schedule

    def action_apply(self) -> None:
        """Close with the command that the sentence describes."""
        if self._chosen is None:
            return
        command, problem = self._read_command()
        if command is None:
            self.query_one("#problem", Static).update(problem)
            self.call_after_refresh(self._fit_height)
        else:
            self.dismiss(command)


def _field_id(argument: ArgumentInfo) -> str:
    return f"argument-{argument.name}"
