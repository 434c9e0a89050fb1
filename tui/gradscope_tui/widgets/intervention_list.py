"""`InterventionList`: interventions, breakpoints, set rules and their history; the forms of the last two."""

from functools import partial
from typing import TypeAlias

from gradscope.protocol import Ack, BreakpointState, Command, InterventionState, RuleState
from gradscope_tui.keys import bindings_of
from gradscope_tui.presenter import Presenter
from gradscope_tui.source import send_command
from gradscope_tui.view.cell import Line
from gradscope_tui.view.columns import in_columns
from gradscope_tui.view.lines import (
    INTERVENTION_COLUMNS,
    breakpoint_rows,
    history_rows,
    intervention_row,
    rule_rows,
)
from gradscope_tui.widgets.row_list import RowList

__all__ = ["InterventionList"]

_State: TypeAlias = InterventionState | BreakpointState | RuleState


class InterventionList(RowList):
    """The list of the Interventions tab, with the keys that edit, remove and copy the row at the cursor."""

    BINDINGS = bindings_of("interventions")

    def __init__(self, presenter: Presenter, *, id: str) -> None:
        super().__init__(id=id)
        self._presenter = presenter
        self._states: list[_State | None] = []

    def show_states(self, width: int) -> None:
        """Show the interventions, breakpoints and rules of the run, and who changed what."""
        store, states = self._presenter.store, self._presenter.states()
        if store is None:
            return
        rows, titles = in_columns(
            INTERVENTION_COLUMNS, [intervention_row(state, store.step) for state in states], width
        )
        listed: list[_State | None] = [*states]
        tables: tuple[tuple[list[Line], tuple[_State, ...]], ...] = (
            (breakpoint_rows(store.breakpoints, width - 1), store.breakpoints),
            (rule_rows(store.rules, width - 1), store.rules),
        )
        for lines, shown in tables:
            listed += [None] * (len(lines) - len(shown)) + list(shown)
            rows += lines
        self._states = listed
        self.show([*rows, *history_rows(store.journal, width - 1)], titles)

    @property
    def state(self) -> _State | None:
        """What is at the cursor; None for a title or an entry of the history."""
        return self._states[self.cursor] if self.cursor < len(self._states) else None

    async def open_breakpoint(self, edited: BreakpointState | None = None) -> None:
        """Open the form for a breakpoint; the answer replaces the edited one."""
        from gradscope_tui.screens.breakpoint import BreakpointScreen  # noqa: PLC0415 - loads all rules

        form = BreakpointScreen(lambda: self._presenter.store, edited.condition if edited else "")
        await self.app.push_screen(form, partial(self._set_breakpoint, edited.id if edited else ""))

    async def open_rule(self, edited: RuleState | None = None) -> None:
        """Open the form for a rule; the answer replaces the edited one."""
        from gradscope_tui.screens.rule import RuleScreen  # noqa: PLC0415 - loads all rules

        form = RuleScreen(lambda: self._presenter.store, edited)
        await self.app.push_screen(form, partial(self._set_rule, edited))

    async def edit_at_cursor(self) -> None:
        """Open the form of the breakpoint or rule at the cursor."""
        state = self.state
        if isinstance(state, BreakpointState):
            await self.open_breakpoint(state)
        elif isinstance(state, RuleState):
            await self.open_rule(state)

    def remove_at_cursor(self) -> None:
        """Remove the breakpoint or rule at the cursor."""
        state = self.state
        if isinstance(state, BreakpointState):
            done = f"breakpoint removed: {state.condition}"
            self._send(Command(action="unbreak", target=state.id), done)
        elif isinstance(state, RuleState):
            done = f"rule removed: {state.setting.rule}"
            self._send(Command(action="unrule", target=state.id), done)

    def _set_breakpoint(self, replaced: str, condition: str | None) -> None:
        if condition:
            if replaced:
                self._send(Command(action="unbreak", target=replaced), "")
            self._send(Command(action="break", condition=condition), f"breakpoint set: {condition}")

    def _set_rule(self, edited: RuleState | None, command: Command | None) -> None:
        if command is None or command.rule is None:
            return
        setting = command.rule
        was = edited.setting if edited is not None else setting
        is_elsewhere = (was.rule, was.layers) != (setting.rule, setting.layers)
        if edited is not None and is_elsewhere and edited.set_by != "script":
            self._send(Command(action="unrule", target=edited.id), "")
        self._send(command, f"rule set: {setting.rule}, {setting.action}")

    def _send(self, command: Command, done: str) -> None:
        """Send a command. Its answer is shown: `done`, or the reason of a refusal."""
        answer = partial(self.app.call_later, self._show_answer, done)
        send_command(self._presenter.source, command, answer)

    def _show_answer(self, done: str, ack: Ack | None, reason: str) -> None:
        if ack is None:
            self.notify(reason, severity="error", markup=False)
        elif done:
            since = "" if ack.step is None else f", in force since step {ack.step:,}"
            self.notify(done + since, markup=False)
