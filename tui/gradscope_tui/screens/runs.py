"""`RunsScreen` lists the runs of the hub, so that the person can choose one."""

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from gradscope.protocol import RunInfo
from gradscope_tui.view.columns import in_columns
from gradscope_tui.view.lines import RUN_COLUMNS, run_row
from gradscope_tui.widgets.row_list import RowList

__all__ = ["RunsScreen"]

_WIDTH = 86
"""The width of the list before its size is known."""


class RunsScreen(ModalScreen[str | None]):
    """Returns the name of a run, or None. The list is updated while the screen is open."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,R", "close", show=False)]

    def __init__(self, runs: Sequence[RunInfo]) -> None:
        super().__init__()
        self._runs = tuple(runs)

    def compose(self) -> ComposeResult:
        """Create the list."""
        card = Vertical(classes="card")
        card.border_title = "runs"
        card.border_subtitle = "enter watches · esc closes"
        with card:
            yield RowList(id="runs")
            yield Static("No runs yet. Start one with: gradscope run train.py", classes="note")

    def on_mount(self) -> None:
        """Fill the list."""
        self.show(self._runs)
        self.query_one(RowList).focus()

    def show(self, runs: Sequence[RunInfo]) -> None:
        """List these runs, one line each."""
        self._runs = tuple(run for run in runs if run.rank == 0)
        if self.query(RowList):  # else it is not composed yet, and on_mount shows the list
            rows = self.query_one(RowList)
            cells = [run_row(run) for run in self._runs]
            rows.show(*in_columns(RUN_COLUMNS, cells, rows.size.width or _WIDTH))
            self.query_one(".note").display = not self._runs

    def on_cursor_list_chosen(self, event: RowList.Chosen) -> None:
        """Close with the run."""
        event.stop()
        self.dismiss(self._runs[event.control.cursor].run)

    def action_close(self) -> None:
        """Close without a choice."""
        self.dismiss(None)
