"""`RunsScreen` lists the runs of the hub and the recordings, so that the person can choose one."""

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from gradscope.protocol import RunInfo
from gradscope.recording import RecordingInfo, list_recordings
from gradscope_tui.view.columns import in_columns
from gradscope_tui.view.lines import RUN_COLUMNS, run_row
from gradscope_tui.widgets.row_list import RowList

__all__ = ["RunsScreen"]

_WIDTH = 86
"""The width of the list before its size is known."""


class RunsScreen(ModalScreen[RunInfo | None]):
    """Returns a run, or None. The list is updated while the screen is open.

    A run of which only the recording is known is one that is not live, with `recording` as the path.
    """

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,R", "close", show=False)]

    def __init__(self, runs: Sequence[RunInfo], title: str = "runs", hint: str = "enter opens") -> None:
        super().__init__()
        self._title, self._hint = title, hint
        self._known = tuple(runs)
        self._recorded: tuple[RunInfo, ...] = ()
        self._runs: tuple[RunInfo, ...] = ()

    def compose(self) -> ComposeResult:
        """Create the list."""
        card = Vertical(classes="card")
        card.border_title = self._title
        card.border_subtitle = f"{self._hint} · esc closes"
        with card:
            yield RowList(id="runs")
            yield Static("No runs yet. Start one with: gradscope run train.py", classes="note")

    def on_mount(self) -> None:
        """Fill the list."""
        self.show(self._known)
        self.query_one(RowList).focus()

    def show(self, runs: Sequence[RunInfo]) -> None:
        """List these runs of the hub, and after them the recordings of others, one line each."""
        self._known = tuple(run for run in runs if run.rank == 0)
        names = {run.run for run in self._known}
        others = tuple(run for run in self._recorded if run.run not in names)
        self._runs = (*sorted(self._known, key=lambda run: not run.is_live), *others)
        if self.query(RowList):  # else it is not composed yet, and on_mount shows the list
            rows = self.query_one(RowList)
            cells = [run_row(run) for run in self._runs]
            rows.show(*in_columns(RUN_COLUMNS, cells, rows.size.width or _WIDTH))
            self.query_one(".note").display = not self._runs

    def list_recorded(self) -> None:
        """Read which runs are recorded. Called in a thread, since it opens each recording."""
        self._recorded = tuple(_as_run(info) for info in list_recordings() if not info.problem)
        self.app.call_from_thread(self._show_again)

    def _show_again(self) -> None:
        if self.is_attached:
            self.show(self._known)

    def on_cursor_list_chosen(self, event: RowList.Chosen) -> None:
        """Close with the run."""
        event.stop()
        self.dismiss(self._runs[event.control.cursor])

    def action_close(self) -> None:
        """Close without a choice."""
        self.dismiss(None)


def _as_run(info: RecordingInfo) -> RunInfo:
    has_end = info.ended_s is not None
    return RunInfo(
        run=info.run, rank=0, world_size=1, host=info.host, pid=info.pid, user="", script=info.script,
        started_s=info.started_s, is_live=False, step=info.last_step, last_message_s=info.ended_s or 0.0,
        recording=str(info.path), reason=info.reason if has_end else "no end is recorded",
    )  # fmt: skip
