"""`MainScreen` holds the pages and the lines around them. It redraws only what has changed."""

from textual import events, on
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widgets import ContentSwitcher

from gradscope.errors import UsageError
from gradscope_tui.keys import bindings_of, keys_shown
from gradscope_tui.presenter import Presenter
from gradscope_tui.view.lines import LOG_HEADER, key_cells
from gradscope_tui.widgets.cell_strip import OneLine
from gradscope_tui.widgets.detail_page import DetailPage
from gradscope_tui.widgets.empty_state import EmptyState
from gradscope_tui.widgets.filter_line import FilterLine
from gradscope_tui.widgets.layer_table import LayerTable
from gradscope_tui.widgets.memory_page import MemoryPage
from gradscope_tui.widgets.row_list import RowList

__all__ = ["InterventionBar", "KeyLine", "MainScreen", "StatusLine", "TabLine"]


class StatusLine(OneLine):
    """The run, its progress and the state of the link."""


class InterventionBar(OneLine):
    """The pause and the interventions; hidden if there are none."""


class TabLine(OneLine):
    """The titles of the pages."""


class KeyLine(OneLine):
    """The keys of the current page."""


class InterventionList(RowList):
    """The list of interventions, with the keys that remove and copy the one at the cursor."""

    BINDINGS = bindings_of("interventions")


class AlertList(RowList):
    """The list of alerts, with the key that shows the layer of the one at the cursor."""

    BINDINGS = bindings_of("alerts")


class MainScreen(Screen[None]):
    """Draws the state of the presenter. The app calls `draw` four times a second."""

    BINDINGS = bindings_of("main")

    def __init__(self, presenter: Presenter, *, is_readonly: bool) -> None:
        super().__init__()
        self._presenter = presenter
        self.table = LayerTable(id="layers")
        self.detail = DetailPage(id="detail")
        self.alerts = AlertList(follows=True, id="alerts")
        self.memory = MemoryPage(id="memory")
        self.interventions = InterventionList(id="interventions")
        self._log = RowList(LOG_HEADER, follows=True, id="log")
        self._empty = EmptyState(id="empty")
        self._status, self._bar, self._tabs, self._keys = (
            StatusLine(),
            InterventionBar(),
            TabLine(),
            KeyLine(),
        )
        self._filter = FilterLine()
        self._pages = ContentSwitcher(initial="empty")
        self._is_readonly = is_readonly
        self._drawn: object = None

    def compose(self) -> ComposeResult:
        """Create the lines and the pages."""
        yield self._status
        yield self._bar
        yield self._tabs
        with self._pages:
            yield self._empty
            yield self.table
            yield self.alerts
            yield self.memory
            yield self.interventions
            yield self._log
            yield self.detail
        yield self._filter
        yield self._keys

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
        for line in (self._status, self._tabs, self._keys):
            line.display = is_roomy
        bar = presenter.bar_cells(width)
        self._bar.set_class(is_roomy and bool(bar), "is-active")
        self._status.show(presenter.status_cells(width, is_readonly=self._is_readonly))
        self._bar.show(bar)
        self._keys.show(*key_cells(keys_shown(presenter.keys_of, is_readonly=self._is_readonly), width))
        self._show_page()
        self._show_tabs()

    def show_page(self, page: str) -> None:
        """Show a page now."""
        self._presenter.page = page
        self.draw()

    def _show_tabs(self) -> None:
        self._tabs.show(*self._presenter.tab_cells(self.table.in_words, self.size.width))

    def _show_page(self) -> None:
        presenter = self._presenter
        empty_text = presenter.empty_text()
        self._empty.show(empty_text)
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
        presenter = self._presenter
        if presenter.store is None or presenter.frame is None:
            return
        if shown == "layers":
            self.table.show(presenter.frame, presenter.states())
        elif shown == "detail":
            self.detail.show(presenter.store, presenter.frame, presenter.states())
        elif shown == "alerts":
            self.alerts.show(*presenter.alert_table(self.size.width - 2))
        elif shown == "memory":
            self.memory.show_page(*presenter.memory_lines(self.size.width - 1))
        elif shown == "interventions":
            self.interventions.show(*presenter.intervention_table(self.size.width - 2))
        else:
            self._log.show(presenter.log_rows(self.size.width - 2))

    def _focus_page(self) -> None:
        page = self._pages.visible_content
        if page is not None and page.focusable and not self._filter.is_open:
            self.set_focus(page)

    def on_layer_table_changed(self) -> None:
        """Show the marks, the filter and the order in the tab line."""
        self._show_tabs()

    def on_layer_table_detail_wanted(self) -> None:
        """Show the layer at the cursor."""
        self.detail.layer_name = self.table.cursor_layer
        self.show_page("detail")

    def on_layer_table_filter_wanted(self) -> None:
        """Open the filter line."""
        self._filter.open(self.table.order.filter)

    def on_filter_line_typed(self, event: FilterLine.Typed) -> None:
        """Filter while the person types."""
        try:
            self.table.set_filter(event.text)
        except UsageError as error:
            self._filter.show_problem(str(error))
        else:
            self._filter.show_problem("")

    def on_filter_line_closed(self, event: FilterLine.Closed) -> None:
        """Return to the table."""
        if not event.is_kept:
            self.table.set_filter("")
        self._focus_page()

    def action_show(self, page: str) -> None:
        """Show a page."""
        self.show_page(page)

    def action_go_back(self) -> None:
        """Close the filter line, or return to the layers, or remove the filter: the first that applies."""
        if self._filter.is_open:
            self._filter.close(is_kept=False)
        elif self._presenter.page != "layers":
            self.show_page("layers")
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
            self.show_page("alerts")
            self.alerts.action_move(len(store.alerts))

    @on(RowList.Chosen, "#alerts")
    def show_layer_of_alert(self, event: RowList.Chosen) -> None:
        """Show the layer of an alert in detail."""
        store = self._presenter.store
        layer = store.alerts[event.row].info.layer if store and event.row < len(store.alerts) else ""
        if layer:
            self.detail.layer_name = layer
            self.show_page("detail")
