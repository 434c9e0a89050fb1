"""`MainScreen` holds the pages and the lines around them. It redraws only what has changed."""

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Input, Static

from gradscope.errors import UsageError
from gradscope_tui.keys import bindings_of, keys_shown
from gradscope_tui.presenter import Presenter
from gradscope_tui.store.journal import Entry, layer_of
from gradscope_tui.view.alerts import ALERT_COLUMNS, alert_row, alert_text, verdict_cells
from gradscope_tui.view.cell import Line, text_of
from gradscope_tui.view.columns import in_columns
from gradscope_tui.view.lines import (
    INTERVENTION_COLUMNS,
    LOG_HEADER,
    bar_cells,
    history_rows,
    intervention_row,
    key_cells,
    log_rows,
    pause_cells,
    tab_cells,
)
from gradscope_tui.view.resources import exhausted_text, head_lines, layer_header, layer_rows
from gradscope_tui.view.status import status_cells
from gradscope_tui.widgets.cell_widget import CellLines
from gradscope_tui.widgets.detail_page import DetailPage
from gradscope_tui.widgets.filter_line import FilterLine
from gradscope_tui.widgets.layer_table import LayerTable
from gradscope_tui.widgets.row_list import RowList

__all__ = ["MainScreen"]


class InterventionList(RowList):
    """The list of interventions, with the keys that remove and copy the one at the cursor."""

    BINDINGS = bindings_of("interventions")


class AlertList(RowList):
    """The list of alerts, with the key that shows the layer of the one at the cursor."""

    BINDINGS = bindings_of("alerts")


class MainScreen(Screen[None]):
    """Draws the state of the presenter. The app calls `draw` four times a second."""

    BINDINGS = bindings_of("main")

    def __init__(self, presenter: Presenter) -> None:
        super().__init__()
        self._presenter = presenter
        self.verdict = CellLines(id="verdict")
        self.status = CellLines(id="status")
        self.bar = CellLines(id="bar")
        self.tabs = CellLines(id="tabs")
        self.table = LayerTable(id="layers")
        self.detail = DetailPage(id="detail")
        self.alerts = AlertList(follows=True, id="alert-list")
        self._alert_text = Static(markup=False, id="alert-text")
        self._memory = RowList(id="memory")
        self.interventions = InterventionList(id="interventions")
        self._log = RowList(follows=True, id="log")
        self._empty = Static(markup=False, id="empty")
        self._pages = ContentSwitcher(initial="empty")
        self._filter = FilterLine()
        self.keys = CellLines(id="keys")
        self._drawn: object = None

    def compose(self) -> ComposeResult:
        """Create the lines and the pages."""
        yield from (self.verdict, self.status, self.bar, self.tabs)
        with self._pages:
            yield from (self._empty, self.table)
            yield Vertical(self.alerts, self._alert_text, id="alerts")
            yield from (self._memory, self.interventions, self._log, self.detail)
        yield from (self._filter, self.keys)

    def on_mount(self) -> None:
        """Draw the empty screen."""
        self.draw()

    def on_resize(self, event: events.Resize) -> None:
        """Redraw everything for the new size."""
        self._presenter.size = (event.size.width, event.size.height)
        self._drawn = None
        self.call_after_refresh(self.draw)

    def draw(self) -> None:
        """Redraw the widgets whose data has changed since the last call."""
        presenter, width = self._presenter, self.size.width
        is_roomy = not presenter.is_too_small
        for line in (self.status, self.tabs, self.keys):
            line.display = is_roomy
        store = presenter.store
        verdict = verdict_cells(store.verdict, width) if store else ()
        self.verdict.display = is_roomy and bool(verdict)
        self.verdict.show(verdict, actions={0: "app.press('main', '2')"} if verdict else None)
        bar = self._bar_cells(width)
        self.bar.set_class(is_roomy and bool(bar), "is-active")
        self.bar.show(bar)
        self.status.show(status_cells(presenter.status, width))
        keys, actions = key_cells(
            keys_shown(presenter.keys_of, is_readonly=presenter.is_readonly), width
        )
        self.keys.show(keys, actions=actions)
        self._show_page()
        self._show_tabs()

    def _bar_cells(self, width: int) -> Line:
        store, states = self._presenter.store, self._presenter.states()
        paused = pause_cells(store.pause, store.pause_left_s()) if store and store.pause else ()
        left = width - len(text_of(paused))
        return (*paused, *(bar_cells(states, left) if states and left > 0 else ()))

    def _show_tabs(self) -> None:
        store = self._presenter.store
        counts = {
            "alerts": len(store.alerts) if store else 0,
            "interventions": len(self._presenter.states()),
            "log": len(store.journal) if store else 0,
        }
        page = "layers" if self._presenter.page == "detail" else self._presenter.page
        tabs, actions = tab_cells(page, counts, self.table.in_words, self.size.width)
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
        if shown == "layers":
            self.table.show(frame, states)
        elif shown == "detail":
            self.detail.show(store, frame, states)
        elif shown == "alerts":
            self.alerts.show(*in_columns(ALERT_COLUMNS, [*map(alert_row, store.alerts)], width))
            self.show_alert_text()
        elif shown == "memory":
            exhausted = exhausted_text([entry.text for entry in store.journal])
            head = head_lines(store.resources, exhausted, width)
            rows = layer_rows(store.resources, width - 1)
            self._memory.show(rows, *head, layer_header(width))
        elif shown == "interventions":
            cells = [intervention_row(state, store.step) for state in states]
            rows, titles = in_columns(INTERVENTION_COLUMNS, cells, width)
            self.interventions.show([*rows, *history_rows(store.journal, width - 1)], titles)
        else:
            lines = [line for entry in store.journal for line in log_rows(entry, width - 1)]
            self._log.show(lines, LOG_HEADER)

    @on(RowList.Moved, "#alert-list")
    def show_alert_text(self) -> None:
        """Show the whole text of the alert at the cursor below the list."""
        alert = self._alert
        self._alert_text.update(alert_text(alert) if alert else "")

    @property
    def _alert(self) -> Entry | None:
        """The alert at the cursor."""
        store, row = self._presenter.store, self.alerts.cursor
        return store.alerts[row] if store and row < len(store.alerts) else None

    def _focus_page(self) -> None:
        page = self.alerts if self._pages.current == "alerts" else self._pages.visible_content
        if page is not None and page.focusable and not self._filter.is_open:
            self.set_focus(page)

    def on_layer_table_changed(self) -> None:
        """Show the marks, the filter and the order in the tab line."""
        self._show_tabs()

    @on(LayerTable.Chosen, "#layers")
    def show_layer_at_cursor(self) -> None:
        """Show the layer at the cursor in detail."""
        self._show_layer(self.table.cursor_layer)

    @on(RowList.Chosen, "#alert-list")
    def show_layer_of_alert(self) -> None:
        """Show the layer of the alert at the cursor in detail."""
        alert = self._alert
        if alert is not None and layer_of(alert):
            self._show_layer(layer_of(alert))
        elif alert is not None:
            self._alert_text.update(f"{alert_text(alert)}\nThis alert does not belong to one layer.")

    def _show_layer(self, name: str | None) -> None:
        self.detail.layer_name = name
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
        """Show a page now."""
        self._presenter.page = page
        self.draw()

    def action_go_back(self) -> None:
        """Close the filter line, or return to the layers, or remove the filter: the first that applies."""
        if self._filter.is_open:
            self._filter.close()
            self.table.set_filter("")
            self._focus_page()
        elif self._presenter.page != "layers":
            self.action_show("layers")
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

    def action_alert(self, distance: int) -> None:
        """Go to the next or previous alert; from another page, to the newest one."""
        store = self._presenter.store
        if store is None or not len(store.alerts):
            self.notify("No alerts in this run.")
        elif self._presenter.page == "alerts":
            self.alerts.action_move(distance)
        else:
            self.action_show("alerts")
            self.alerts.action_jump(-1)
