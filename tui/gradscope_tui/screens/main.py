"""`MainScreen` holds the pages and the lines around them. It redraws only what has changed."""

from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Input, Static

from gradscope.errors import UsageError
from gradscope.findings import CODES, Finding
from gradscope.findings.explanation import page_text
from gradscope.protocol import InterventionState
from gradscope_tui.keys import EXPECTED_KEYS, REPLAY_ACTIONS, bindings_of, keys_shown
from gradscope_tui.presenter import Presenter
from gradscope_tui.screens.card import CardScreen, wide_text_width
from gradscope_tui.view.cell import Cell, Line, fit, printable, text_of
from gradscope_tui.view.copied_text import layer_text, verdict_text
from gradscope_tui.view.findings import verdict_cells
from gradscope_tui.view.lines import (
    LOG_HEADER,
    PAGES,
    bar_cells,
    key_cells,
    log_rows,
    pause_cells,
    tab_cells,
)
from gradscope_tui.view.resources import exhausted_text, head_lines, layer_header, layer_rows
from gradscope_tui.view.status import status_cells
from gradscope_tui.view.timeline import timeline_cells
from gradscope_tui.widgets.cell_widget import CellLines
from gradscope_tui.widgets.depth_page import DepthPage
from gradscope_tui.widgets.detail_page import DetailPage, SidePanel
from gradscope_tui.widgets.filter_line import FilterLine
from gradscope_tui.widgets.finding_list import FindingList
from gradscope_tui.widgets.intervention_list import InterventionList
from gradscope_tui.widgets.layer_table import LayerTable
from gradscope_tui.widgets.rank_strip import RankStrip
from gradscope_tui.widgets.row_list import RowList

__all__ = ["MainScreen"]

_LOW = 16
"""On a terminal of fewer lines, the first line is shown only if something is wrong."""

_HINT = " First time? n: worst finding · enter: a layer in detail · 6: by depth · i: intervene · z: undo · ?: all keys"

_SIDE_FROM = 200
"""From this width on, the layer at the cursor is shown in detail next to the table, which has all columns in 120."""


class MainScreen(Screen[None]):
    """Draws the state of the presenter. The app calls `draw` four times a second."""

    BINDINGS: ClassVar[list[BindingType]] = [*bindings_of("replay"), *bindings_of("main")]

    def __init__(self, presenter: Presenter) -> None:
        super().__init__()
        self._presenter = presenter
        self.verdict = CellLines(id="verdict")
        self.status = CellLines(id="status")
        self.ranks = RankStrip(id="ranks")
        self.bar = CellLines(id="bar")
        self.tabs = CellLines(id="tabs")
        self.table = LayerTable(id="layer-table")
        self.side = SidePanel(id="side")
        self.detail = DetailPage(id="detail")
        self.depth = DepthPage(id="depth")
        self.findings = FindingList(id="finding-list")
        self._finding_text = Static(markup=False, id="finding-text")
        self._memory = RowList(id="memory")
        self.interventions = InterventionList(presenter, id="interventions")
        self._log = RowList(follows=True, id="log")
        self._empty = Static(markup=False, id="empty")
        self._pages = ContentSwitcher(initial="empty")
        self._filter = FilterLine()
        self.timeline = CellLines(id="timeline")
        self.keys = CellLines(id="keys")
        self._drawn: object = None
        self._chosen_without_layer = ""
        self.has_hint = False
        self._hint = CellLines(id="hint")
        self._compared = CellLines(id="compared")

    def compose(self) -> ComposeResult:
        """Create the lines and the pages."""
        yield from (self.verdict, self.status, self.ranks, self.bar, self.tabs, self._compared)
        with self._pages:
            yield self._empty
            yield Horizontal(self.table, self.side, id="layers")
            yield Vertical(self.findings, self._finding_text, id="findings")
            yield from (self._memory, self.interventions, self._log, self.detail, self.depth)
        yield from (self._hint, self._filter, self.timeline, self.keys)

    @property
    def is_complete(self) -> bool:
        """Whether all widgets exist: they are removed one after the other while the app closes."""
        return self._empty.is_attached

    def on_mount(self) -> None:
        """Draw the empty screen."""
        self.draw()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool:  # noqa: ARG002 - Textual's
        """Return False for the actions of a recording if none is open, and while the person types a filter."""
        is_possible = self._presenter.replay is not None and not self._filter.is_open
        return is_possible or action not in REPLAY_ACTIONS

    def on_resize(self, event: events.Resize) -> None:
        """Redraw everything for the new size."""
        self._presenter.size = (event.size.width, event.size.height)
        self._drawn = None
        self.call_after_refresh(self.draw)

    @property
    def _is_low(self) -> bool:
        return self._presenter.size[1] < _LOW

    def draw(self) -> None:
        """Redraw the widgets whose data has changed since the last call."""
        presenter, width = self._presenter, self.size.width
        is_roomy = not presenter.is_too_small
        for line in (self.status, self.tabs, self.keys):
            line.display = is_roomy
        store = presenter.store
        verdict = store.verdict if store else None
        opening = presenter.shown_key(
            "main", "finding(1)" if presenter.replay is None else "show('findings')"
        )
        keys_of_verdict = opening, presenter.shown_key("main", "evidence")
        cells = verdict_cells(verdict, width, keys=keys_of_verdict) if verdict else ()
        has_room = verdict is not None and (verdict.has_problem or not self._is_low)
        self.verdict.display = is_roomy and has_room
        self.verdict.show(cells, actions=dict.fromkeys(range(len(cells)), "app.press('main', 'n')"))
        self.ranks.show_ranks(store.rank_states if store else None, width, is_roomy=is_roomy)
        bar = self._bar_cells(width)
        self.bar.set_class(is_roomy and bool(bar), "is-active")
        self.bar.show(bar)
        self.status.show(status_cells(presenter.status, width))
        shown = keys_shown(
            presenter.keys_of,
            is_readonly=not presenter.is_changeable,
            is_replay=presenter.replay is not None,
            keys=presenter.keys,
        )
        keys, actions = key_cells(shown, width)
        self.keys.show(keys, actions=actions)
        self._hint.display = self.has_hint and not self._is_low
        self._hint.show((Cell(fit(_HINT, width), "title"),))
        self._show_timeline(width)
        reference = presenter.reference
        self._compared.display = is_roomy and reference is not None
        if reference is not None:
            note = f" · {reference.note}" if reference.note else ""
            text = f" ≠ compared with {printable(reference.words + note)}"
            self._compared.show((Cell(fit(text, width), "title"),))
        self._show_page()
        self._show_tabs()

    def _show_timeline(self, width: int) -> None:
        """Show the position among past steps, and the finding or intervention there if the screen is high enough."""
        line = self._presenter.timeline
        self.timeline.display = self._presenter.replay is not None or line is not None
        if self.timeline.display:
            position, landmark = timeline_cells(line, width)
            self.timeline.styles.height = 1 if self._is_low else 2
            self.timeline.show(*((position,) if self._is_low else (landmark, position)))

    def _bar_cells(self, width: int) -> Line:
        store, states = self._presenter.store, self._presenter.states()
        paused = pause_cells(store.pause, store.pause_left_s()) if store and store.pause else ()
        left = width - len(text_of(paused))
        return (*paused, *(bar_cells(states, left) if states and left > 0 else ()))

    def _show_tabs(self) -> None:
        store = self._presenter.store
        counts = {
            "findings": len(store.verdict.findings) + len(store.events) if store else 0,
            "interventions": len(self._presenter.states()),
            "log": len(store.journal) if store else 0,
        }
        page = "layers" if self._presenter.page == "detail" else self._presenter.page
        has_problem = store is not None and store.verdict.has_problem
        tabs, actions = tab_cells(
            page, counts, self.table.in_words, self.size.width, has_problem=has_problem
        )
        self.tabs.show(tabs, actions=actions)

    def _show_page(self) -> None:
        presenter = self._presenter
        empty_text = presenter.empty_text()
        if empty_text != self._empty.content:
            self._empty.update(empty_text)
        shown = "empty" if empty_text else presenter.page
        if self._pages.current != shown:
            self._pages.current = shown
            self._drawn = None
            self._focus_page()
        key = (shown, presenter.version, self.size, self.detail.layer_name)
        if not empty_text and key != self._drawn:
            self._drawn = key
            self._draw_page(shown)

    def _draw_page(self, shown: str) -> None:
        presenter, width = self._presenter, self.size.width - 1
        store, frame, states = presenter.store, presenter.frame, presenter.states()
        if store is None or frame is None:
            return
        self.detail.other = self.side.other = presenter.other
        if shown == "layers":
            self.side.display = self.size.width >= _SIDE_FROM and not self._is_low
            other = presenter.other
            self.table.show(frame, states, other[0] if other else None, presenter.differing)
            self._show_side()
        elif shown == "detail":
            self.detail.show(store, frame, states)
        elif shown == "depth":
            self.depth.show(store, frame, states)
        elif shown == "findings":
            self.findings.show_findings(store.verdict, store.events, width)
            self.show_finding_text()
        elif shown == "memory":
            exhausted = exhausted_text([entry.text for entry in store.journal])
            head = head_lines(store.resources, exhausted, width)
            rows = layer_rows(store.resources, width - 1)
            self._memory.show(rows, *head, layer_header(width))
        elif shown == "interventions":
            self.interventions.show_states(width)
        else:
            lines = [line for entry in store.journal for line in log_rows(entry, width - 1)]
            self._log.show(lines, LOG_HEADER)

    @on(LayerTable.Moved, "#layer-table")
    def _show_side(self) -> None:
        """Show the layer at the cursor in the side panel."""
        presenter = self._presenter
        if self.side.display and presenter.store is not None and presenter.frame is not None:
            self.side.layer_name = self.table.cursor_layer
            self.side.show(presenter.store, presenter.frame, presenter.states())

    @on(RowList.Moved, "#finding-list")
    def show_finding_text(self) -> None:
        """Show the whole text of the row at the cursor below the list."""
        row = self.findings.row
        is_chosen = row is not None and row.key == self._chosen_without_layer
        note = "\nThis row does not belong to one layer." if is_chosen else ""
        self._finding_text.update(row.text + note if row else "")

    def _focus_page(self) -> None:
        inside = {"findings": self.findings, "layers": self.table}
        page = inside.get(self._pages.current or "", self._pages.visible_content)
        if page is not None and page.focusable and not self._filter.is_open:
            self.set_focus(page)

    def on_layer_table_changed(self) -> None:
        """Show the marks, the filter and the order in the tab line."""
        self._show_tabs()

    @on(LayerTable.Chosen, "#layer-table")
    def show_layer_at_cursor(self) -> None:
        """Show the layer at the cursor in detail."""
        self._show_layer(self.table.cursor_layer)

    def on_depth_page_chosen(self) -> None:
        """Show the layer of the Depth tab in detail."""
        self._show_layer(self.depth.layer_name)

    def layers_at_cursor(self) -> tuple[str, ...]:
        """Return the layer of the page that is shown; on pages without one, the layers chosen in the table."""
        names = {"detail": self.detail.layer_name, "depth": self.depth.layer_name}
        name = names.get(self._presenter.page)
        return self.table.chosen() if name is None else (name,)

    @on(RowList.Chosen, "#finding-list")
    def show_layer_of_finding(self) -> None:
        """Show the layer of the finding at the cursor in detail."""
        row = self.findings.row
        if row is not None and row.layer:
            self._show_layer(row.layer, row.finding)
        elif row is not None:
            self._chosen_without_layer = row.key
            self.show_finding_text()

    def _show_layer(self, name: str | None, finding: Finding | None = None) -> None:
        self.detail.layer_name, self.detail.finding = name, finding
        self._drawn = None
        self.action_show("detail")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while the person types."""
        if not self._filter.is_open:
            return
        try:
            self.table.set_filter(event.value)
        except UsageError as error:
            self._filter.show_problem(str(error))
        else:
            self._filter.show_problem("")

    def on_input_submitted(self) -> None:
        """Keep the filter and return to the table."""
        self._filter.close()
        self._focus_page()

    def action_filter(self) -> None:
        """Open the filter line."""
        self._filter.open(self.table.order.filter)

    def action_show(self, page: str) -> None:
        """Show a page now. The Depth tab begins at the layer at which the person was."""
        if page == "depth" and self._presenter.page in ("layers", "detail"):
            self.depth.layer_name = next(iter(self.layers_at_cursor()), None)
        self._presenter.page = page
        self.draw()

    def action_show_next(self, distance: int) -> None:
        """Show the next or the previous tab."""
        names = [name for name, _ in PAGES]
        page = "layers" if self._presenter.page == "detail" else self._presenter.page
        self.action_show(names[(names.index(page) + distance) % len(names)])

    def on_key(self, event: events.Key) -> None:
        """Say which key the person may look for, if the one that was pressed has no meaning here."""
        presenter = self._presenter
        owners = (
            "app",
            "main",
            presenter.keys_of,
        )  # also keys that are refused, which is said elsewhere
        known = {name for key in presenter.keys if key.owner in owners for name in key.keys.split(",")}
        is_known = event.key in known or event.key in self.active_bindings
        is_expected = event.is_printable or event.key in EXPECTED_KEYS
        if is_expected and not is_known and not self._filter.is_open:
            text = EXPECTED_KEYS.get(event.key, "? lists all keys")
            pressed = event.character if event.is_printable and event.character else event.key
            self.notify(f"{pressed} does nothing here: {text}.", markup=False)

    def action_go_back(self) -> None:
        """Close the filter line, or return to the layers, or remove the filter: the first that applies."""
        if self._filter.is_open:
            self._filter.close()
            self.table.set_filter("")
            self._focus_page()
        elif self._presenter.page != "layers":
            self.action_show("layers")
        elif self._presenter.is_frozen:
            self._presenter.show_newest()
            self.draw()
        else:
            self.table.set_filter("")

    def action_next_rank(self) -> None:
        """Select the next choice of ranks: all merged, then each rank."""
        self.notify(self._presenter.choose_rank())
        self._presenter.update()
        self.draw()

    def action_freeze(self) -> None:
        """Freeze the view, or unfreeze it."""
        self._presenter.freeze()
        self.draw()

    def action_finding(self, distance: int) -> None:
        """Go to the next or previous finding; from another page, to the worst one."""
        store = self._presenter.store
        if store is not None and self._presenter.page == "findings":
            self.findings.action_move(distance)
        else:
            self.action_show("findings")
            self.findings.action_jump(0)

    def action_evidence(self) -> None:
        """Show the layer of the worst finding with its evidence; on that page, of the next finding."""
        store = self._presenter.store
        found = [each for each in store.verdict.every() if each.layers] if store else []
        if not found:
            is_wrong = store is not None and store.verdict.has_problem
            self.notify(
                "No finding names a layer." + (" n shows the findings." if is_wrong else ""),
                markup=False,
            )
            return
        shown = self.detail.finding if self._presenter.page == "detail" else None
        place = (found.index(shown) + 1) % len(found) if shown in found else 0
        self._show_layer(found[place].layers[0], found[place])

    async def action_explain(self) -> None:
        """Show the page of the finding at the cursor."""
        row = self.findings.row if self._presenter.page == "findings" else None
        if row is not None and row.finding is not None and row.finding.code in CODES:
            closing = dict.fromkeys(("escape", "q", "e", "enter"), "")
            text = page_text(row.finding.code, wide_text_width(self.size.width))
            title = f"gradscope explain {row.finding.code}"
            await self.app.push_screen(CardScreen("explain", title, text, closing, "esc closes"))

    # Interventions and breakpoints.

    @property
    def intervention_at_cursor(self) -> InterventionState | None:
        """The intervention at the cursor of the Interventions tab."""
        state = self.interventions.state if self._presenter.page == "interventions" else None
        return state if isinstance(state, InterventionState) else None

    def action_copy_python(self) -> None:
        """Copy the intervention at the cursor as lines of Python."""
        from gradscope.client.as_python import python_lines  # noqa: PLC0415 - gradscope.client loads zmq

        state, store = self.intervention_at_cursor, self._presenter.store
        if state is not None and store is not None:
            self._copy("\n".join(python_lines(state, store.actions)))

    async def action_breakpoint(self) -> None:
        """Open the form for a breakpoint."""
        await self.interventions.open_breakpoint()

    async def action_rule(self) -> None:
        """Open the form for a rule."""
        await self.interventions.open_rule()

    def action_copy_row(self) -> None:
        """Copy the row at the cursor as text, through the terminal; without a row, the verdict."""
        presenter = self._presenter
        store, frame, states = presenter.store, presenter.frame, presenter.states()
        if store is None or frame is None:
            return
        page, text = presenter.page, ""
        if page == "findings" and self.findings.row is not None:
            text = self.findings.row.text
        elif page in ("interventions", "memory", "log"):
            rows = {"interventions": self.interventions, "memory": self._memory, "log": self._log}
            text = rows[page].row_text
        else:
            names = self.layers_at_cursor()
            texts = (layer_text(store.run, frame, name, states) for name in names)
            text = "\n".join(each for each in texts if each)
        self._copy(text or verdict_text(store.verdict))

    def action_copy_verdict(self) -> None:
        """Copy the verdict with all findings as text, through the terminal."""
        if self._presenter.store is not None:
            self._copy(verdict_text(self._presenter.store.verdict))

    def _copy(self, text: str) -> None:
        self.app.copy_to_clipboard(text)
        self.notify(text, title="copied", markup=False)

    def action_mark_step(self) -> None:
        """Compare with the shown step from now on, or end the comparison."""
        self.notify(self._presenter.mark_step(), markup=False)
        self.draw()

    def action_scrub(self, distance: int) -> None:
        """Show an earlier or later observed step."""
        if self._presenter.replay is not None:
            self.action_replay_move(distance)
            return
        self._note_scrub(self._presenter.scrub(distance))

    def action_landmark(self, direction: int) -> None:
        """Show the step at which the next or previous finding or intervention begins."""
        if self._presenter.replay is not None:
            self.action_replay_landmark(direction)
            return
        self._note_scrub(self._presenter.scrub_to_landmark(direction))

    def _note_scrub(self, problem: str) -> None:
        if problem:
            self.notify(problem)
        self.draw()

    def action_replay_play(self) -> None:
        """Play the recording, or stop."""
        replay = self._presenter.replay
        if replay is not None:
            replay.toggle_play()
            self._presenter.update()
            self.draw()

    def action_replay_move(self, distance: int) -> None:
        """Go some observed steps forward or back."""
        replay = self._presenter.replay
        if replay is not None:
            replay.is_playing = False
            replay.move(distance)

    def action_replay_jump(self, end: int) -> None:
        """Go to the first observed step, or to the last."""
        replay = self._presenter.replay
        if replay is not None:
            replay.is_playing = False
            replay.jump(end)

    def action_replay_landmark(self, direction: int) -> None:
        """Go to the next or previous finding or intervention."""
        if self._presenter.replay is not None and not self._presenter.replay_landmark(direction):
            where = "after" if direction > 0 else "before"
            self.notify(f"There is no finding and no intervention {where} this step.")
