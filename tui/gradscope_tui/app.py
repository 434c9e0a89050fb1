"""`GradscopeApp` owns the source, feeds the store, updates the screen, and sends commands.

Data flows source → session → frame → page. The source has a thread of its own; everything else runs in
the app's thread.
"""

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from textual.actions import parse
from textual.app import App, SystemCommand
from textual.content import Content
from textual.dom import DOMNode
from textual.filter import LineFilter
from textual.screen import Screen

from gradscope.names import counted
from gradscope.protocol import Command, InterventionState, RunInfo, Runs
from gradscope_tui.ascii_filter import AsciiFilter, needs_ascii
from gradscope_tui.changes import Answer, Change, Changes, removal
from gradscope_tui.kept_view import KeptView, read_view, write_view
from gradscope_tui.keys import CHANGING_ACTIONS, bindings_of
from gradscope_tui.leases import FocusLease, PauseLease
from gradscope_tui.presenter import Presenter
from gradscope_tui.replay import Replay
from gradscope_tui.screens.card import CardScreen
from gradscope_tui.screens.intervene import InterveneScreen
from gradscope_tui.screens.main import MainScreen
from gradscope_tui.screens.runs import RunsScreen
from gradscope_tui.screens.tensors import TensorScreen
from gradscope_tui.source import Connect, Connector, Source
from gradscope_tui.store.journal import Entry
from gradscope_tui.store.session import Session
from gradscope_tui.terminal_title import TerminalTitle, title_of
from gradscope_tui.theme import THEMES, palette, theme_for
from gradscope_tui.view.help_text import help_text
from gradscope_tui.view.intervention_text import intervention_line
from gradscope_tui.view.questions import PAUSE_TEXT, QUIT_TEXT, READONLY_TEXT, RECORDING_TEXT

if TYPE_CHECKING:
    from textual.actions import ActionParseResult


__all__ = ["GradscopeApp"]

_RATE_HZ = 4.0

_FEED_S = 0.015
"""The longest time for which items are fed to the store at once. Keys are handled in between."""

_REMOVAL_S = 2.0
"""The longest wait for removals to be acknowledged when the person quits."""

_ERROR_S = 12.0


class GradscopeApp(App[int]):
    """The terminal UI, which shows one run at a time. The exit code is 0, or 130 if it is interrupted.

    recording: show this recording instead, at `step` or at its end; the screen then has no link to any run.
    against: compare with this recording.
    view_path: the file in which theme and order are kept between sessions. keys_path: a file with other keys.
    """

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
        recording: Path | None = None,
        step: int | None = None,
        against: Path | None = None,
        view_path: Path | None = None,
        keys_path: Path | None = None,
    ) -> None:
        super().__init__()
        self._recording, self._first_step, self._against = recording, step, against
        self._notify_recorded = partial(self.call_later, self._feed_recorded)
        self._notify_compared = partial(self.call_later, self.update_view)
        self.is_readonly = is_readonly
        self.session = Session()
        # `call_later` may be called in any thread; the method runs in the app's thread.
        self.connector = Connector(connect, partial(self.call_later, self._feed_store))
        self.changes = Changes(partial(self.call_later, self._show_answer))
        self.pause_lease = PauseLease(partial(self.call_later, self._show_command_answer))
        self.focus_lease = FocusLease()
        self.presenter = Presenter(
            self.session, self.changes, self.connector, run, is_readonly=is_readonly
        )
        self.presenter.page = tab
        self.main = MainScreen(self.presenter)
        self._announced: Entry | None = None
        self._exit_at: tuple[float, int] | None = None
        for theme in THEMES:
            self.register_theme(theme)
        self._view_path, view = view_path, read_view(view_path)
        is_kept = view.theme in self.available_themes and "GRADSCOPE_THEME" not in os.environ
        self.theme = view.theme if is_kept else theme_for(os.environ).name
        self.main.table.restore_order(view.sort, is_ascending=view.is_ascending)
        self.main.has_hint = not view.is_used
        self.set_keymap(self.presenter.use_own_keys(keys_path))
        self.terminal_title = TerminalTitle(self)
        self._ascii = [AsciiFilter()] if needs_ascii(os.environ) else []

    @property
    def source(self) -> "Source | None":
        """The source, once there is one. A recording has none, so nothing can be sent to a run."""
        return self.presenter.source

    @property
    def replay(self) -> Replay | None:
        """The open recording; None while a run is watched."""
        return self.presenter.replay

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Return the filters of each drawn line; the last one is for terminals that have only ASCII."""
        return [*super().get_line_filters(), *self._ascii]

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Return the palette for themes that do not define it."""
        return palette(is_dark=self.current_theme.dark)

    def get_default_screen(self) -> MainScreen:
        """Return the main screen."""
        return self.main

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:  # noqa: ARG002 - Textual's
        """Return False for actions that change the training, if this viewer cannot."""
        return self.presenter.is_changeable or action not in CHANGING_ACTIONS

    async def run_action(
        self,
        action: "str | ActionParseResult",
        default_namespace: DOMNode | None = None,
        namespaces: Mapping[str, DOMNode] | None = None,
    ) -> bool:
        """Run an action. Say why, if this viewer refuses it because it is read-only or shows a recording."""
        self.main.has_hint = False
        name = (parse(action) if isinstance(action, str) else action)[1]
        if name in CHANGING_ACTIONS and not self.presenter.is_changeable:
            self._notify_error(RECORDING_TEXT if self.replay else READONLY_TEXT)
            return True
        return await super().run_action(action, default_namespace, namespaces)

    def on_ready(self) -> None:
        """Connect after the first paint, because connecting loads more modules; start the clock."""
        if self._recording is not None:
            self.presenter.open_recording(self._recording, self._notify_recorded, self._first_step)
        else:
            self.connector.start()
        if self._against is not None:
            self.presenter.compare_with_recording(self._against, self._notify_compared)
        self.set_interval(1 / _RATE_HZ, self.update_view)
        if self.presenter.keys_problem:
            self._notify_error(self.presenter.keys_problem)

    def on_unmount(self) -> None:
        """Close the source and the recording; keep the view."""
        order = self.main.table.order
        kept = KeptView(self.theme, order.sort, order.is_ascending, is_used=True)
        write_view(self._view_path, kept)
        self.terminal_title.end()
        self.connector.stop()
        self.presenter.compare_with(None)
        self.presenter.close_recording()

    def _feed_recorded(self) -> None:
        """Show the newest store of the recording, and add earlier steps to it for at most 15 ms."""
        replay = self.replay
        if replay is None:
            return
        store = replay.take_store()
        if store is not None:
            self.session.show(store)
        until = time.monotonic() + _FEED_S
        while self.session.watched is not None and (steps := replay.take_steps()):
            for message in steps:
                self.session.watched.feed(message)
            self.session.watched.feed({message.rank: message for message in steps})
            if time.monotonic() > until:
                self.call_later(self._feed_recorded)
                break
        if store is not None or replay.problem:
            self.update_view()

    def _feed_store(self) -> None:
        """Feed the store with new items for at most 15 ms. A later call handles the rest."""
        source = self.connector.source
        if source is None:
            return
        until = time.monotonic() + _FEED_S
        while items := source.take(16):
            for item in items:
                if self.replay is None or isinstance(item, Runs):
                    self.session.feed(item)
            if time.monotonic() > until:
                self.call_later(self._feed_store)
                break
        if self.replay is not None:
            return
        self._announce_failure()
        if self.presenter.choose_run():
            self.update_view()

    def _announce_failure(self) -> None:
        """Show the newest warning or error if it is not a finding, such as a rule that failed."""
        entry = self.session.watched.newest_failure if self.session.watched else None
        if entry is not None and entry is not self._announced and entry.is_announced:
            self._announced = entry
            if self.presenter.page != "findings":  # that list shows it; a toast would cover its text
                self.notify(entry.text, severity="warning", timeout=_ERROR_S, markup=False)

    def update_view(self) -> None:
        """Redraw what has changed, renew the leases, and list the runs if the person must choose one."""
        if not self.screen_stack or not self.main.is_complete:  # the app is closing
            return
        if self._exit_at is not None:
            until, code = self._exit_at
            if not self.changes.pending or time.monotonic() > until:
                self.exit(code, return_code=code)
        store = self.session.watched
        if self.replay is not None:
            self.replay.tick()
        self.pause_lease.renew(self.source, store.pause if store else None)
        self._renew_focus()
        self.presenter.update()
        self.main.draw()
        self.terminal_title.show(title_of(store))
        if isinstance(self.screen, RunsScreen):
            self.screen.show(self.session.runs)
        elif self.presenter.must_choose and self.screen is self.main:
            self.presenter.must_choose = False
            self.push_screen(RunsScreen(self.session.runs), self._open_run)

    def _renew_focus(self) -> None:
        """Keep only the layer in detail in the focus."""
        name, store = self.main.detail.layer_name, self.session.watched
        is_wanted = (
            self.presenter.is_changeable and self.presenter.page == "detail" and store is not None
        )
        node = store.tree.find(name) if is_wanted and store is not None and name is not None else None
        is_watched = store is not None and node is not None and store.tree.layers[node].is_watched
        self.focus_lease.hold(self.source, name if is_watched else None)
        self.main.detail.refusal = self.focus_lease.refusal

    def _open_run(self, chosen: RunInfo | None) -> None:
        """Watch a run; open the recording of one that has ended."""
        if chosen is None:
            return
        self.focus_lease.hold(self.source, None)
        if chosen.recording and not chosen.is_live:
            self.presenter.open_recording(Path(chosen.recording), self._notify_recorded)
        else:
            self.presenter.close_recording()
            self.presenter.watch(chosen.run)
        self.main.action_show("layers")

    def _notify_error(self, text: str) -> None:
        self.notify(text, severity="error", timeout=_ERROR_S, markup=False)

    # Screens are awaited, so that keys typed meanwhile are queued for them and not lost.

    async def action_help(self) -> None:
        """Show all keys."""
        is_readonly, is_replay = not self.presenter.is_changeable, self.replay is not None
        markup = help_text(is_readonly=is_readonly, is_replay=is_replay, keys=self.presenter.keys)
        text = Content.from_markup(markup)
        closing = dict.fromkeys(("escape", "q", "question_mark", "enter"), "")
        await self.push_screen(CardScreen("help", "keys and signs", text, closing, "esc closes"))

    async def action_runs(self) -> None:
        """Choose a run."""
        runs = RunsScreen(self.session.runs)
        await self.push_screen(runs, self._open_run)
        self.run_worker(runs.list_recorded, thread=True, exclusive=True)

    async def action_compare(self) -> None:
        """Choose a recorded run to compare with."""
        screen = RunsScreen(self.session.runs, "compare with", "enter compares")
        await self.push_screen(screen, self._compare_with)
        self.run_worker(screen.list_recorded, thread=True)

    def _compare_with(self, chosen: RunInfo | None) -> None:
        if chosen is None:
            return
        if not chosen.recording:
            self._notify_error(
                f"{chosen.run} is not recorded on this machine, so it cannot be compared."
            )
            return
        self.presenter.compare_with_recording(Path(chosen.recording), self._notify_compared)
        self.update_view()

    # Interventions.

    async def action_intervene(self) -> None:
        """Open the form for the layer of the page, else the marked layers, else the layer at the cursor."""
        if self.presenter.frame is None:
            return
        layers, store = self.main.layers_at_cursor(), self.session.watched
        if layers and store is not None:
            form = InterveneScreen(layers, self.presenter.frame, store.actions)
            await self.push_screen(form, self._send_intervention)

    def _send_intervention(self, command: Command | None) -> None:
        if command is not None:
            self._send(Change(command))

    def _send(self, change: Change) -> None:
        store = self.session.watched
        revision = store.interventions_revision if store else None
        self.changes.send(self.source, change, revision)
        self.update_view()

    def _show_answer(self, answer: Answer) -> None:
        """Show the answer to a change immediately. A success appears only in the bar and the log."""
        self.changes.note_answer(answer)
        text = self.presenter.note_answer(answer)
        if answer.ack is None:
            self._notify_error(text)
        self.update_view()

    def action_undo(self) -> None:
        """Undo this viewer's last change."""
        undo = self.changes.pop_undo(self.presenter.states())
        for change in undo:
            self._send(change)
        if not undo:
            self.notify("Nothing to undo: no change of this viewer is in force.")

    def action_redo(self) -> None:
        """Repeat the change that was undone last."""
        redo = self.changes.pop_redo(self.presenter.states())
        for change in redo:
            self._send(change)
        if not redo:
            self.notify("Nothing to redo: no change of this viewer was undone.")

    def action_remove_all(self) -> None:
        """Remove all interventions of the run."""
        states = self.presenter.states()
        if states:
            self._send(Change(Command(action="remove_all"), removed=states))

    def action_remove_chosen(self) -> None:
        """Remove the intervention at the cursor."""
        state = self.main.intervention_at_cursor
        if state is not None and state.id:
            self._send(removal(state))
        self.main.interventions.remove_at_cursor()

    async def action_edit_chosen(self) -> None:
        """Open the form for the intervention at the cursor; the answer replaces it."""
        state, store = self.main.intervention_at_cursor, self.session.watched
        if state is not None and state.id and store is not None:
            form = InterveneScreen(state.layers, self.presenter.frame, store.actions, state)
            await self.push_screen(form, partial(self._replace_intervention, state))
        await self.main.interventions.edit_at_cursor()

    def _replace_intervention(self, state: InterventionState, command: Command | None) -> None:
        if command is not None:
            self._send(removal(state, "undo"))
            self._send(Change(command, (state,)))

    # Other commands.

    async def action_pause(self) -> None:
        """Ask whether to pause training. If it is paused, resume it without a question."""
        store = self.session.watched
        if store is None:
            return
        if store.pause is not None:
            self.pause_lease.send(self.source, "resume")
        else:
            answers = dict.fromkeys(("enter", "y", "P"), "pause") | dict.fromkeys(
                ("escape", "n", "q"), ""
            )
            hint = "enter pauses · esc cancels"
            card = CardScreen("pause", "pause the training?", PAUSE_TEXT, answers, hint)
            await self.push_screen(card, self._decide_pause)

    def _decide_pause(self, answer: str | None) -> None:
        if answer:
            self.pause_lease.send(self.source, "pause")

    def action_step_once(self) -> None:
        """Run one step of a paused training."""
        store = self.session.watched
        if store is None:
            return
        if store.pause is None:
            self.notify("The training is running. Press P to pause it, then . for one step.")
        else:
            self.pause_lease.send(self.source, "step_once")

    def action_measure(self) -> None:
        """Measure memory and time in the next step."""
        self.pause_lease.send(self.source, "measure")

    def action_restore_snapshot(self) -> None:
        """Restore the training state from before the first intervention."""
        self.pause_lease.send(self.source, "undo")

    def _show_command_answer(self, text: str, step: int | None, *, is_done: bool) -> None:
        """Log a success; show a refusal."""
        store = self.session.watched
        if not is_done:
            self._notify_error(text)
        elif store is not None and text:
            store.note("info", text, step)
        self.update_view()

    async def action_capture(self) -> None:
        """Capture the tensors of the layer in detail, or of the layer at the cursor, and show them."""
        store = self.session.watched
        name = next(iter(self.main.layers_at_cursor()), None)
        if self.presenter.page == "layers":
            name = self.main.table.cursor_layer
        if name is None:
            return
        waiting = f"Capturing the activation of {name or 'the model'} in the next step."
        if store is not None and store.pause is not None:
            waiting += " The training is paused: press . for one step."
        await self.push_screen(TensorScreen(self.source, name, "activation", waiting))

    # The palette, the mouse, and the end.

    async def action_press(self, owner: str, keys: str) -> None:
        """Run the action of a key, for the mouse and the command palette."""
        key = next(
            k for k in self.presenter.keys if k.owner == owner and k.keys.partition(",")[0] == keys
        )
        owners = {
            "layers": self.main.table,
            "main": self.main,
            "replay": self.main,
            "findings": self.main.findings,
            "depth": self.main.depth,
            "detail": self.main.detail,
        }
        target = self.main.focused if owner == "list" else owners.get(owner)
        await self.run_action(key.action, target or self)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Yield a palette command for every key, and one that selects the theme."""
        for key in self.presenter.keys:
            is_of_other = key.owner == "replay" and self.replay is None
            is_refused = key.changes and not self.presenter.is_changeable
            if not (is_refused or is_of_other) and key.action != "command_palette":
                press = partial(self.action_press, key.owner, key.keys.partition(",")[0])
                yield SystemCommand(key.meaning, f"key {key.shown}", press)
        if self.presenter.is_changeable:
            yield SystemCommand(
                "restore the state of before the first intervention",
                "needs a training that keeps a snapshot",
                self.action_restore_snapshot,
            )
        yield from (c for c in super().get_system_commands(screen) if c.title == "Theme")

    async def action_quit(self) -> None:
        """Quit as `q` does."""
        await self.action_leave(0)

    async def action_leave(self, code: int) -> None:
        """Quit. Ask first if interventions of this viewer are in force, but only once."""
        is_own = self.replay is None
        states = self.changes.ending_with_viewer(self.presenter.states()) if is_own else ()
        is_asked = any(screen.id == "quit" for screen in self.screen_stack)
        if not states or is_asked or self._exit_at is not None:
            self.exit(code, return_code=code)
            return
        text = Content("\n".join(map(intervention_line, states))) + Content.from_markup(QUIT_TEXT)
        answers = {"l": "leave", "enter": "leave", "r": "remove", "escape": ""}
        title = f"{counted(len(states), 'intervention')} still active"
        card = CardScreen("quit", title, text, answers, "esc does not quit")
        await self.push_screen(card, partial(self._decide_exit, code))

    def _decide_exit(self, code: int, decision: str | None) -> None:
        if decision == "leave":
            self.exit(code, return_code=code)
        elif decision == "remove":
            for state in self.changes.ending_with_viewer(self.presenter.states()):
                if state.id:
                    self._send(removal(state))
            self._exit_at = (time.monotonic() + _REMOVAL_S, code)
