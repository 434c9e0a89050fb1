"""`MainScreen`: the pages and the lines around them, drawn four times a second where they change."""

from collections.abc import Callable

from textual import events
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

_RATE_HZ = 4.0


class StatusLine(OneLine):
    """What run this is and how it goes."""


class InterventionBar(OneLine):
    """There only while gradients are changed."""


class TabLine(OneLine):
    """The pages."""


class KeyLine(OneLine):
    """The keys of this page."""


class InterventionList(RowList):
    """The interventions, with the key that removes one."""

    BINDINGS = bindings_of("interventions")


class AlertList(RowList):
    """The alerts, with the key that shows a layer."""

    BINDINGS = bindings_of("alerts")


class MainScreen(Screen[None]):
    """Draws what `viewing` sees. `before_look` is called first, so that the newest is seen."""

    BINDINGS = bindings_of("main")

    def __init__(
        self, viewing: Presenter, before_look: Callable[[], None], *, is_readonly: bool
    ) -> None:
        super().__init__()
        self.viewing = viewing
        self.table = LayerTable(id="layers")
        self.detail = DetailPage(id="detail")
        self.alerts = AlertList(follows=True, id="alerts")
        self.memory = MemoryPage(id="memory")
        self.interventions = InterventionList(id="interventions")
        self._log = RowList(LOG_HEADER, follows=True, id="log")
        self._calm = EmptyState(id="calm")
        self._status, self._bar, self._tabs, self._keys = (
            StatusLine(),
            InterventionBar(),
            TabLine(),
            KeyLine(),
        )
        self._filter = FilterLine()
        self._pages = ContentSwitcher(initial="calm")
        self._before_look = before_look
        self._is_readonly = is_readonly
        self._drawn: object = None

    def compose(self) -> ComposeResult:
        """Lay out the screen."""
        yield self._status
        yield self._bar
        yield self._tabs
        with self._pages:
            yield self._calm
            yield self.table
            yield self.alerts
            yield self.memory
            yield self.interventions
            yield self._log
            yield self.detail
        yield self._filter
        yield self._keys

    def on_mount(self) -> None:
        """Start the clock."""
        self.set_interval(1 / _RATE_HZ, self.look)
        self.look()

    def on_resize(self, event: events.Resize) -> None:
        """Draw anew in the new size."""
        self.viewing.size = (event.size.width, event.size.height)
        self._drawn = None
        self.call_after_refresh(self.look)

    def look(self) -> None:
        """Draw what has changed since the last look."""
        self._before_look()
        viewing, width = self.viewing, self.size.width
        is_roomy = not viewing.is_too_small
        for line in (self._status, self._tabs, self._keys):
            line.display = is_roomy
        bar = viewing.bar_cells(width)
        self._bar.set_class(is_roomy and bool(bar), "is-active")
        self._status.show(viewing.status_cells(width, is_readonly=self._is_readonly))
        self._bar.show(bar)
        self._keys.show(*key_cells(keys_shown(viewing.keys_of, is_readonly=self._is_readonly), width))
        self._show_page()
        self._show_tabs()

    def show_page(self, page: str) -> None:
        """Show a page now."""
        self.viewing.page = page
        self.look()

    def _show_tabs(self) -> None:
        self._tabs.show(*self.viewing.tab_cells(self.table.in_words, self.size.width))

    def _show_page(self) -> None:
        viewing = self.viewing
        calm = viewing.calm_text()
        self._calm.say(calm)
        shown = "calm" if calm else viewing.page
        if self._pages.current != shown:
            self._pages.current = shown
            self._drawn = None
            self._focus_page()
        key = (shown, viewing.version, self.size, self.detail.layer_name)
        if not calm and key != self._drawn:
            self._drawn = key
            self._draw(shown)

    def _draw(self, shown: str) -> None:
        viewing = self.viewing
        if viewing.store is None or viewing.frame is None:
            return
        if shown == "layers":
            self.table.show(viewing.frame, viewing.states())
        elif shown == "detail":
            self.detail.show(viewing.store, viewing.frame, viewing.states())
        elif shown == "alerts":
            self.alerts.show(*viewing.alert_table(self.size.width - 2))
        elif shown == "memory":
            self.memory.show_page(*viewing.memory_lines(self.size.width - 1))
        elif shown == "interventions":
            self.interventions.show(*viewing.intervention_table(self.size.width - 2))
        else:
            self._log.show(viewing.log_rows(self.size.width - 2))

    def _focus_page(self) -> None:
        page = self._pages.visible_content
        if page is not None and page.focusable and not self._filter.is_open:
            self.set_focus(page)

    def on_layer_table_changed(self) -> None:
        """Say in the tab line what is marked, filtered and sorted."""
        self._show_tabs()

    def on_layer_table_detail_wanted(self) -> None:
        """Show the layer under the cursor."""
        self.detail.layer_name = self.table.cursor_layer
        self.show_page("detail")

    def on_layer_table_filter_wanted(self) -> None:
        """Open the filter's line."""
        self._filter.open(self.table.order.filter)

    def on_filter_line_typed(self, event: FilterLine.Typed) -> None:
        """List while one types."""
        try:
            self.table.set_filter(event.text)
        except UsageError as error:
            self._filter.say(str(error))
        else:
            self._filter.say("")

    def on_filter_line_closed(self, event: FilterLine.Closed) -> None:
        """Go back to the table."""
        if not event.is_kept:
            self.table.set_filter("")
        self._focus_page()

    def action_show(self, page: str) -> None:
        """Show a page."""
        self.show_page(page)

    def action_go_back(self) -> None:
        """Close the filter, leave the page for the layers, or take the filter away."""
        if self._filter.is_open:
            self._filter.close(is_kept=False)
        elif self.viewing.page != "layers":
            self.show_page("layers")
        else:
            self.table.set_filter("")

    def action_next_rank(self) -> None:
        """Show the ranks merged, or the next one of them."""
        self.notify(self.viewing.choose_rank())
        self.look()

    def action_freeze(self) -> None:
        """Freeze the view, or let it go on."""
        self.viewing.freeze()
        self.look()
