"""`FindingList`: the list of the Findings tab, in which consequences are folded under their cause."""

from collections.abc import Iterable

from gradscope.findings import Verdict
from gradscope_tui.keys import bindings_of
from gradscope_tui.store.journal import Entry
from gradscope_tui.view.findings import ListedRow, list_findings
from gradscope_tui.widgets.row_list import RowList

__all__ = ["FindingList"]


class FindingList(RowList):
    """Findings, events, and what was not checked. The cursor stays at its row when rows are added above it."""

    BINDINGS = bindings_of("findings")

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._unfolded: set[str] = set()
        self._listed: list[ListedRow] = []
        self._content: tuple[Verdict, list[Entry], int] | None = None

    def show_findings(self, verdict: Verdict, events: Iterable[Entry], width: int) -> None:
        """Show the findings of a run."""
        self._content = verdict, list(events), width
        at = self.row.key if self.row else ""
        self._listed, titles = list_findings(*self._content[:2], self._unfolded, width)
        self.show([row.line for row in self._listed], titles)
        keys = [row.key for row in self._listed]
        self.put_cursor(keys.index(at) if at and at in keys else self._next_chosen(0, 1))

    @property
    def row(self) -> ListedRow | None:
        """The row at the cursor."""
        return self._listed[self.cursor] if self.cursor < len(self._listed) else None

    def action_move(self, distance: int) -> None:
        """Move the cursor, over the titles."""
        self.put_cursor(self._next_chosen(self.cursor + distance, distance))

    def action_jump(self, row: int) -> None:
        """Move the cursor to the first or the last row that is not a title."""
        self.put_cursor(self._next_chosen(0, 1) if row >= 0 else self._next_chosen(self.listed - 1, -1))

    def action_unfold(self) -> None:
        """Show the consequences of the finding at the cursor as rows of their own."""
        if self.row is not None and self.row.cause:
            self._unfolded.add(self.row.cause)
            self._show_again()

    def action_fold(self) -> None:
        """Hide the consequences of a finding; from one of them, go to their cause."""
        if self.row is None or not self.row.cause:
            return
        cause = self.row.cause
        self._unfolded.discard(cause)
        self.put_cursor([row.key for row in self._listed].index(cause))
        self._show_again()

    def _show_again(self) -> None:
        if self._content is not None:
            self.show_findings(*self._content)

    def _next_chosen(self, row: int, distance: int) -> int:
        """Return the first row from `row` on, in the direction of `distance`, that is not a title."""
        while 0 <= row < len(self._listed) and not self._listed[row].key:
            row += 1 if distance > 0 else -1
        return row if 0 <= row < len(self._listed) else self.cursor
