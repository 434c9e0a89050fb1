"""`GradscopeApp`: the screen. It owns the receiving thread, feeds the store, and draws four times a second.

The way of the data: source → receiver (its thread) → `Arrived` → session → frame → the page that is shown.
Everything but the receiver happens in this one thread.
"""

import os
import time
from collections.abc import Iterable
from functools import partial

from textual import events
from textual.app import App, ComposeResult, SystemCommand
from textual.message import Message
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import ContentSwitcher

from gradscope.errors import UsageError
from gradscope_tui.changes import Answer, Change, Changes
from gradscope_tui.keys import KEYS, Key, bindings_of, keys_shown
from gradscope_tui.receiver import Receiver
from gradscope_tui.screens.help import HelpScreen
from gradscope_tui.screens.intervene import InterveneScreen
from gradscope_tui.screens.leaving import Decision, LeavingScreen
from gradscope_tui.screens.runs import RunsScreen
from gradscope_tui.source import Connect
from gradscope_tui.store import Session
from gradscope_tui.theme import DARK, LIGHT, palette, theme_for
from gradscope_tui.view.lines import INTERVENTION_HEADER, LOG_HEADER
from gradscope_tui.viewing import Viewing
from gradscope_tui.widgets.calm import Calm
from gradscope_tui.widgets.cell_strip import OneLine
from gradscope_tui.widgets.detail_page import DetailPage
from gradscope_tui.widgets.filter_line import FilterLine
from gradscope_tui.widgets.layer_table import LayerTable
from gradscope_tui.widgets.row_list import RowList

__all__ = ["GradscopeApp"]

_RATE_HZ = 4.0
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


class StatusLine(OneLine):
    """What run this is and how it goes."""


class InterventionBar(OneLine):
    """There only while gradients are changed."""


class TabLine(OneLine):
    """The pages."""


class KeyLine(OneLine):
    """The keys of this page."""


class GradscopeApp(App[int]):
    """Watches one run at a time. Ends with 0, or 130 when interrupted."""

    CSS_PATH = "gradscope.tcss"
    TITLE = "gradscope"
    BINDINGS = bindings_of("app")
    ENABLE_COMMAND_PALETTE = True

    def __init__(self, connect: Connect, run: str | None = None, *, is_readonly: bool = False) -> None:
        super().__init__()
        self.is_readonly = is_readonly
        self.session = Session()
        self.receiver = Receiver(connect, lambda: self.post_message(Arrived()))
        self.changes = Changes(lambda answer: self.post_message(Answered(answer)))
        self.viewing = Viewing(self.session, self.changes, run)
        self._drawn: object = None
        self._exit_at: tuple[float, int] | None = None
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = theme_for(os.environ).name

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Return the palette for themes that are not ours."""
        return palette(is_dark=self.current_theme.dark)

    def compose(self) -> ComposeResult:
        """Lay out the screen."""
        yield StatusLine()
        yield InterventionBar()
        yield TabLine()
        with ContentSwitcher(initial="calm"):
            yield Calm(id="calm")
            yield LayerTable(id="layers")
            yield RowList(INTERVENTION_HEADER, id="interventions")
            yield RowList(LOG_HEADER, follows=True, id="log")
            yield DetailPage(id="detail")
        yield FilterLine()
        yield KeyLine()

    def on_mount(self) -> None:
        """Start the thread after the first picture, and the clock."""
        self.call_after_refresh(self.receiver.start)
        self.set_interval(1 / _RATE_HZ, self._look)
        self._look()

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
        if self.viewing.choose_run(self.receiver):
            self._look()

    def on_answered(self, event: Answered) -> None:
        """Say at once what came of a change."""
        answer = event.answer
        self.changes.settle(answer)
        level, text = self.viewing.note_answer(answer)
        if not answer.is_done:  # what was done shows in the bar and in the log
            self.notify(text, severity=level, timeout=12, markup=False)
        self._look()

    def on_resize(self, event: events.Resize) -> None:
        """Draw anew in the new size."""
        self.viewing.size = (event.size.width, event.size.height)
        self._drawn = None
        self.call_after_refresh(self._look)

    def _look(self) -> None:
        """Draw what has changed since the last look."""
        if self._exit_at is not None and self._may_exit():
            return
        viewing = self.viewing
        viewing.see(self.receiver)
        width = self.size.width
        self.query_one(StatusLine).show(viewing.status_cells(width, is_readonly=self.is_readonly))
        self._show_bar(width)
        self.query_one(KeyLine).show(
            *viewing.key_cells(keys_shown(viewing.keys_of, is_readonly=self.is_readonly), width)
        )
        self._show_page()
        self._show_tabs(width)
        if isinstance(self.screen, RunsScreen):
            self.screen.show(self.session.runs)
        elif viewing.must_choose and len(self.screen_stack) == 1:
            viewing.must_choose = False
            self.push_screen(RunsScreen(self.session.runs), self._watch)

    def _show_bar(self, width: int) -> None:
        bar = self.query_one(InterventionBar)
        states = self.viewing.states()
        bar.set_class(bool(states) and not self.viewing.is_too_small, "is-active")
        bar.show(self.viewing.bar_cells(width))

    def _show_tabs(self, width: int) -> None:
        self.query_one(TabLine).show(*self.viewing.tab_cells(self.query_one(LayerTable), width))

    def _show_page(self) -> None:
        viewing = self.viewing
        calm = viewing.calm_text(self.receiver.problem)
        shown = "calm" if calm else viewing.page
        switcher = self.query_one(ContentSwitcher)
        for line in (StatusLine, TabLine, KeyLine):
            self.query_one(line).display = not viewing.is_too_small
        if calm:
            self.query_one(Calm).say(calm)
        if switcher.current != shown:
            switcher.current = shown
            self._drawn = None
            self._focus_page(shown)
        key = (shown, self.session.version, self.changes.version, viewing.is_frozen, self.size)
        if key == self._drawn or calm:
            return
        self._drawn = key
        viewing.draw(self.query_one(f"#{shown}"))

    def _focus_page(self, shown: str) -> None:
        page = self.screen_stack[0].query_one(f"#{shown}", Widget)
        if page.focusable and not self.query_one(FilterLine).is_open:
            self.screen_stack[0].set_focus(page)

    def query_one(self, *args, **kwargs):  # type: ignore[no-untyped-def]  # noqa: ANN002, ANN003, ANN201
        """Look in the main screen, whatever lies over it."""
        return self.screen_stack[0].query_one(*args, **kwargs)

    def on_layer_table_changed(self) -> None:
        """Say in the tab line what is marked, filtered and sorted."""
        self._show_tabs(self.size.width)

    def on_layer_table_detail_wanted(self) -> None:
        """Show the layer under the cursor."""
        table = self.query_one(LayerTable)
        if table.cursor_node is not None and self.viewing.frame is not None:
            name = self.viewing.frame.tree.layers[table.cursor_node].name
            self.query_one(DetailPage).layer = name
            self.action_page("detail")

    def on_layer_table_filter_wanted(self) -> None:
        """Open the filter's line."""
        self.query_one(FilterLine).open(self.query_one(LayerTable).order.filter)

    def on_filter_line_typed(self, event: FilterLine.Typed) -> None:
        """List while one types."""
        try:
            self.query_one(LayerTable).set_filter(event.text)
        except UsageError as error:
            self.query_one(FilterLine).say(str(error))
        else:
            self.query_one(FilterLine).say("")

    def on_filter_line_closed(self, event: FilterLine.Closed) -> None:
        """Go back to the table."""
        if not event.is_kept:
            self.query_one(LayerTable).set_filter("")
        self._focus_page("layers")

    def action_page(self, page: str) -> None:
        """Show a page."""
        self.viewing.page = page
        self._look()

    def action_back(self) -> None:
        """Close the filter, leave the detail, or take the filter away."""
        line = self.query_one(FilterLine)
        if line.is_open:
            line.close(is_kept=False)
        elif self.viewing.page != "layers":
            self.action_page("layers")
        else:
            self.query_one(LayerTable).set_filter("")

    def action_freeze(self) -> None:
        """Freeze the view, or let it go on."""
        self.viewing.freeze()
        self._look()

    # Screens are awaited: keys typed meanwhile wait for them, and are not lost to a screen half made.

    async def action_help(self) -> None:
        """Show all keys."""
        await self.push_screen(HelpScreen(is_readonly=self.is_readonly))

    async def action_runs(self) -> None:
        """Choose a run."""
        await self.push_screen(RunsScreen(self.session.runs), self._watch)

    def _watch(self, run: str | None) -> None:
        if run is not None:
            self.viewing.watch(run, self.receiver)
            self._look()

    async def action_intervene(self) -> None:
        """Open the form for the marked layers, or the one under the cursor, or the one in detail."""
        if self.is_readonly or self.viewing.frame is None:
            return
        detail = self.query_one(DetailPage).layer
        is_detail = self.viewing.page == "detail" and detail is not None
        layers = (detail,) if is_detail else self.query_one(LayerTable).chosen()
        if layers:
            await self.push_screen(InterveneScreen(layers, self.viewing.frame), self._send)

    def _send(self, change: Change | None) -> None:
        if change is not None:
            store = self.session.watched
            self.changes.send(
                self.receiver.source, change, store.interventions_revision if store else None
            )
            self._look()

    def action_undo(self) -> None:
        """Undo this viewer's last change."""
        if self.is_readonly:
            return
        undone = self.changes.undone(self.viewing.known_states())
        for change in undone:
            self._send(change)
        if not undone:
            self.notify("nothing to undo: this viewer has changed nothing that is still in force")

    def action_remove_all(self) -> None:
        """Remove all interventions of the run."""
        states = self.viewing.known_states()
        if states and not self.is_readonly:
            self._send(Change("remove_all", removed=states))

    def action_remove_chosen(self) -> None:
        """Remove the intervention under the cursor."""
        row = self.query_one("#interventions", RowList).cursor
        states = self.viewing.states()
        if row < len(states) and states[row].id and not self.is_readonly:
            self._send(Change("remove", target=states[row].id, removed=(states[row],)))

    async def action_press(self, owner: str, keys: str) -> None:
        """Do what a key of the table does; for the mouse and the palette."""
        key = next(key for key in KEYS if key.owner == owner and key.keys.partition(",")[0] == keys)
        await self.run_action(key.action, self._owner(key))

    def _owner(self, key: Key) -> App[int] | Widget:
        return self if key.owner in ("app", "interventions") else self.query_one(LayerTable)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """Yield every key's command for the palette."""
        for key in KEYS:
            if not (key.changes and self.is_readonly) and key.action != "command_palette":
                first = key.keys.partition(",")[0]
                yield SystemCommand(
                    key.meaning, f"key {key.shown}", partial(self.action_press, key.owner, first)
                )
        for command in super().get_system_commands(screen):
            if command.title == "Theme":
                yield command

    async def action_quit(self) -> None:
        """Quit as `q` does."""
        await self.action_leave(0)

    async def action_leave(self, code: int) -> None:
        """Quit; ask first when changes of this viewer are in force."""
        states = self.changes.mine(self.viewing.known_states())
        is_asked = any(isinstance(screen, LeavingScreen) for screen in self.screen_stack)
        if not states or is_asked or self._exit_at is not None:
            self.exit(code, return_code=code)
        else:
            await self.push_screen(LeavingScreen(states), partial(self._decide, code))

    def _decide(self, code: int, decision: Decision | None) -> None:
        if decision == "leave":
            self.exit(code, return_code=code)
        elif decision == "remove":
            for state in self.changes.mine(self.viewing.known_states()):
                self._send(Change("remove", target=state.id, removed=(state,)))
            self._exit_at = (time.monotonic() + _REMOVAL_S, code)

    def _may_exit(self) -> bool:
        assert self._exit_at is not None  # asked for only then
        until, code = self._exit_at
        if self.changes.pending and time.monotonic() < until:
            return False
        self.exit(code, return_code=code)
        return True
