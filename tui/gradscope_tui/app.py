"""`GradscopeApp`: owns the receiving thread, feeds the store, and sends changes.

The way of the data: source → receiver (its thread) → `Arrived` → session → frame → the page that is
shown. Everything but the receiver happens in this one thread.
"""

import os
import time
from collections.abc import Iterable
from functools import partial

from textual.app import SystemCommand
from textual.message import Message
from textual.screen import Screen

from gradscope_tui.acting import Acting
from gradscope_tui.changes import Answer, Change, Changes
from gradscope_tui.keys import KEYS, bindings_of
from gradscope_tui.presenter import Presenter
from gradscope_tui.receiver import Receiver
from gradscope_tui.screens.help import HelpScreen
from gradscope_tui.screens.intervene import InterveneScreen
from gradscope_tui.screens.main import MainScreen
from gradscope_tui.screens.quit import Decision, QuitScreen
from gradscope_tui.screens.runs import RunsScreen
from gradscope_tui.source import Connect
from gradscope_tui.store import Session
from gradscope_tui.theme import DARK, LIGHT, palette, theme_for

__all__ = ["GradscopeApp"]

_FEED_S = 0.015
"""The longest time that messages are taken in at one go; keys are looked at in between."""

_REMOVAL_S = 2.0
"""Quitting waits so long for removals to be acknowledged."""


class Arrived(Message, bubble=False):
    """Messages wait at the receiver; one look takes them all."""

    def can_replace(self, message: Message) -> bool:
        """Replace any other of its kind."""
        return isinstance(message, Arrived)


class Answered(Message, bubble=False):
    """The training process, or the hub, answered a change."""

    def __init__(self, answer: Answer) -> None:
        super().__init__()
        self.answer = answer


class GradscopeApp(Acting):
    """Watches one run at a time. Ends with 0, or 130 when interrupted."""

    CSS_PATH = "gradscope.tcss"
    TITLE = "gradscope"
    BINDINGS = bindings_of("app")

    def __init__(
        self,
        connect: Connect,
        run: str | None = None,
        *,
        is_readonly: bool = False,
        tab: str = "layers",
    ) -> None:
        super().__init__()
        self.is_readonly = is_readonly
        self.session = Session()
        self.receiver = Receiver(connect, lambda: self.post_message(Arrived()))
        self.changes = Changes(lambda answer: self.post_message(Answered(answer)))
        self.viewing = Presenter(self.session, self.changes, self.receiver, run)
        self.viewing.page = tab
        self.main = MainScreen(self.viewing, self._before_look, is_readonly=is_readonly)
        self.make_standing()
        self._exit_at: tuple[float, int] | None = None
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = theme_for(os.environ).name

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Return the palette for themes that are not ours."""
        return palette(is_dark=self.current_theme.dark)

    def get_default_screen(self) -> MainScreen:
        """Return the main screen."""
        return self.main

    def on_ready(self) -> None:
        """Start the thread once the first picture is drawn: connecting loads more."""
        self.receiver.start()

    def on_unmount(self) -> None:
        """End the thread."""
        self.receiver.stop()

    def on_arrived(self) -> None:
        """Take in what came, for a moment; the rest at the next look."""
        until = time.monotonic() + _FEED_S
        while time.monotonic() < until and (messages := self.receiver.take(16)):
            for message in messages:
                self.session.feed(message)
        if self.receiver.backlog:
            self.post_message(Arrived())
        if self.viewing.choose_run():
            self.main.look()

    def on_answered(self, event: Answered) -> None:
        """Say at once what came of a change."""
        answer = event.answer
        self.changes.settle(answer)
        text = self.viewing.note_answer(answer)
        if not answer.is_done:  # what was done shows in the bar and in the log
            self.notify(text, severity="error", timeout=12, markup=False)
        self.main.look()

    def _before_look(self) -> None:
        """See to what the clock brings: the end, the newest frame, the picker and its list."""
        if self._exit_at is not None:
            until, code = self._exit_at
            if not self.changes.pending or time.monotonic() > until:
                self.exit(code, return_code=code)
        self.viewing.see()
        self.renew_pause()
        self.follow_focus()
        if isinstance(self.screen, RunsScreen):
            self.screen.show(self.session.runs)
        elif self.viewing.must_choose and self.screen is self.main:
            self.viewing.must_choose = False
            self.push_screen(RunsScreen(self.session.runs), self._watch)

    # Screens are awaited: keys typed meanwhile wait for them, and are not lost to a screen half made.

    async def action_help(self) -> None:
        """Show all keys."""
        await self.push_screen(HelpScreen(is_readonly=self.is_readonly))

    async def action_runs(self) -> None:
        """Choose a run."""
        await self.push_screen(RunsScreen(self.session.runs), self._watch)

    def _watch(self, run: str | None) -> None:
        if run is not None:
            self.focusing.follow(self.receiver.source, None)
            self.viewing.watch(run)
            self.main.show_page("layers")

    async def action_intervene(self) -> None:
        """Open the form for the marked layers, or the one under the cursor, or the one in detail."""
        if self.is_readonly or self.viewing.frame is None:
            return
        name = self.main.detail.layer_name
        is_detail = self.viewing.page == "detail" and name is not None
        layers = (name,) if is_detail and name is not None else self.main.table.chosen()
        store = self.session.watched
        if layers and store is not None:
            form = InterveneScreen(layers, self.viewing.frame, store.actions)
            await self.push_screen(form, self._send)

    def _send(self, change: Change | None) -> None:
        if change is not None:
            store = self.session.watched
            revision = store.interventions_revision if store else None
            self.changes.send(self.receiver.source, change, revision)
            self.main.look()

    def action_undo(self) -> None:
        """Undo this viewer's last change."""
        if self.is_readonly:
            return
        undone = self.changes.undone(self.viewing.states())
        for change in undone:
            self._send(change)
        if not undone:
            self.notify("nothing to undo: nothing that this viewer changed is still in force")

    def action_remove_all(self) -> None:
        """Remove all interventions of the run."""
        states = self.viewing.states()
        if states and not self.is_readonly:
            self._send(Change("remove_all", removed=states))

    def action_remove_chosen(self) -> None:
        """Remove the intervention under the cursor."""
        row, states = self.main.interventions.cursor, self.viewing.states()
        is_shown = self.viewing.page == "interventions"
        if is_shown and row < len(states) and states[row].id and not self.is_readonly:
            self._send(Change("remove", target=states[row].id, removed=(states[row],)))

    def action_copy_python(self) -> None:
        """Copy the intervention under the cursor as the lines that make it permanent in a script."""
        from gradscope.client.as_python import python_lines  # noqa: PLC0415 - with the link's rooms

        row, states, store = self.main.interventions.cursor, self.viewing.states(), self.session.watched
        if self.viewing.page == "interventions" and row < len(states) and store is not None:
            text = "\n".join(python_lines(states[row], store.actions))
            self.copy_to_clipboard(text)
            self.notify(text, title="copied", timeout=12, markup=False)

    async def action_press(self, owner: str, keys: str) -> None:
        """Do what a key of the table does; for the mouse and the palette."""
        key = next(key for key in KEYS if key.owner == owner and key.keys.partition(",")[0] == keys)
        owners = {"layers": self.main.table, "main": self.main, "alerts": self.main.alerts}
        await self.run_action(key.action, owners.get(owner, self))

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Yield every key's command for the palette, and the choice of a theme."""
        for key in KEYS:
            if not (key.changes and self.is_readonly) and key.action != "command_palette":
                press = partial(self.action_press, key.owner, key.keys.partition(",")[0])
                yield SystemCommand(key.meaning, f"key {key.shown}", press)
        if not self.is_readonly:
            yield SystemCommand(
                "undo to before the first intervention",
                "if the script keeps a snapshot",
                self.action_go_back_to_before,
            )
        yield from (c for c in super().get_system_commands(screen) if c.title == "Theme")

    async def action_quit(self) -> None:
        """Quit as `q` does."""
        await self.action_leave(0)

    async def action_leave(self, code: int) -> None:
        """Quit; ask first when changes of this viewer are in force. Asked twice it goes at once."""
        states = self.changes.mine(self.viewing.states())
        is_asked = any(isinstance(screen, QuitScreen) for screen in self.screen_stack)
        if not states or is_asked or self._exit_at is not None:
            self.exit(code, return_code=code)
        else:
            await self.push_screen(QuitScreen(states), partial(self._decide, code))

    def _decide(self, code: int, decision: Decision | None) -> None:
        if decision == "leave":
            self.exit(code, return_code=code)
        elif decision == "remove":
            for state in self.changes.mine(self.viewing.states()):
                if state.id:
                    self._send(Change("remove", target=state.id, removed=(state,)))
            self._exit_at = (time.monotonic() + _REMOVAL_S, code)
