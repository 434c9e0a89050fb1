"""`Presenter` selects the run, page and frame to show, and builds the lines around the pages.

It connects store and screen: it reads the clock, the link and the run, and uses no widget.
"""

import time
from dataclasses import replace
from typing import TypeAlias

from gradscope.protocol import InterventionState
from gradscope_tui.changes import Answer, Changes
from gradscope_tui.keys import Owner
from gradscope_tui.source import Connector
from gradscope_tui.store import Frame, RunStore, Session
from gradscope_tui.view.alerts import alert_header, alert_row, pause_cells
from gradscope_tui.view.cell import Cell
from gradscope_tui.view.empty_text import (
    NO_ALERTS,
    NO_INTERVENTIONS,
    NO_MEMORY,
    no_layers_text,
    too_small_text,
    waiting_text,
)
from gradscope_tui.view.interventions import in_columns
from gradscope_tui.view.lines import bar_cells, history_rows, log_rows, tab_cells
from gradscope_tui.view.resources import exhausted_text, head_lines, layer_header, layer_rows
from gradscope_tui.view.status import Phase, Status, status_cells, status_of

__all__ = ["Presenter"]

_LEAST = (40, 10)

Line: TypeAlias = tuple[tuple[Cell, ...], dict[int, str]]


class Presenter:
    """Lives as long as the app. `wanted` is the run to watch; None means the only live run."""

    def __init__(
        self, session: Session, changes: Changes, connector: Connector, wanted: str | None
    ) -> None:
        self._session = session
        self._changes = changes
        self._connector = connector
        self._wanted = wanted
        self._phase: Phase = "none"
        self._was_lost = False
        self._status = Status()
        self._frozen: Frame | None = None
        self._frozen_at = 0
        self._made_of: object = None
        self.frame: Frame | None = None
        self.page = "layers"
        self.size = (80, 24)
        self.must_choose = False
        self._has_offered = False

    @property
    def store(self) -> RunStore | None:
        """The store of the watched run."""
        return self._session.watched

    def choose_run(self) -> bool:
        """Watch the wanted run, or the only live one, if it exists. Return whether the view changes."""
        if self.store is not None:
            return False
        live, names = self._session.live(), self._session.names()
        if self._wanted is not None:
            if self._wanted not in names:
                return False
            self.watch(self._wanted)
            return True
        if len(live) == 1:
            self.watch(live[0])
            return True
        if len(live) > 1 and not self._has_offered:
            self._has_offered = self.must_choose = True
        return self.must_choose

    def watch(self, run: str) -> None:
        """Watch a run."""
        self._session.watch(run)
        if self._connector.source is not None:
            self._connector.source.watch(run)
        self._frozen = None

    def update(self) -> None:
        """Update the status from the link and the clock, and the frame if there is new data."""
        store, source = self.store, self._connector.source
        link = source.link if source else None
        phase: Phase = link.phase if link else "none"
        self._note_phase(phase)
        since = time.monotonic() - link.since_s if link else 0.0
        self._status = self._make_status(store, phase, since, link.reason if link else "")
        made_of = (id(store), store.version if store else 0)
        if store is not None and made_of != self._made_of:
            self._made_of = made_of
            self.frame = store.frame()
        if self._frozen is not None:
            self.frame = self._frozen

    def choose_rank(self) -> str:
        """Select the next choice of ranks; return it in words."""
        words = self.store.choose_rank() if self.store is not None else ""
        return f"Showing {words}." if words else "This run has one rank."

    def freeze(self) -> None:
        """Freeze the view, or unfreeze it."""
        if self._frozen is None and self.frame is not None and self.store is not None:
            self._frozen, self._frozen_at = self.frame, self.store.counters["taken"]
        else:
            self._frozen = None
            self._made_of = None
            self.update()

    @property
    def is_frozen(self) -> bool:
        """Whether the view is frozen."""
        return self._frozen is not None

    @property
    def is_too_small(self) -> bool:
        """Whether the terminal is too small for a table."""
        return self.size[0] < _LEAST[0] or self.size[1] < _LEAST[1]

    @property
    def keys_of(self) -> Owner:
        """The owner whose keys are in the key line."""
        owners: dict[str, Owner] = {
            "layers": "layers",
            "interventions": "interventions",
            "alerts": "alerts",
            "detail": "detail",
        }
        return owners.get(self.page, "main")

    @property
    def version(self) -> object:
        """A value that changes whenever the page must be redrawn."""
        return self._session.version, self._changes.version, self.is_frozen

    def states(self) -> tuple[InterventionState, ...]:
        """Return the run's interventions, and the pending ones of this viewer."""
        if self.store is None:
            return self._changes.merged((), None)
        return self._changes.merged(self.store.interventions, self.store.interventions_revision)

    def empty_text(self) -> str:
        """Return the text for a page without content; empty if the page has content."""
        if self.is_too_small:
            return too_small_text(*self.size)
        store = self.store
        if store is None:
            ended = len(self._session.names()) - len(self._session.live())
            if self._wanted is not None:
                ended = 0
            return waiting_text(self._wanted, problem=self._connector.problem, ended=ended)
        return self._empty_page_text(store)

    def _empty_page_text(self, store: RunStore) -> str:
        if self.page == "log" or (self.page == "alerts" and len(store.alerts)):
            return ""
        if self.page == "alerts":
            return NO_ALERTS
        if self.page == "interventions":
            has_lines = self.states() or history_rows(store.journal, self.size[0])
            return "" if has_lines else NO_INTERVENTIONS
        if self.page == "memory" and store.resources.memory is None and store.resources.times is None:
            return NO_MEMORY
        has_manifest = store.revision is not None
        return (
            "" if len(store.tree) else no_layers_text(store.run, store.model, has_manifest=has_manifest)
        )

    def status_cells(self, width: int, *, is_readonly: bool) -> tuple[Cell, ...]:
        """Return the status line."""
        waiting = None
        if self._frozen is not None and self.store is not None:
            waiting = self.store.counters["taken"] - self._frozen_at
        return status_cells(replace(self._status, is_readonly=is_readonly, waiting=waiting), width)

    def bar_cells(self, width: int) -> tuple[Cell, ...]:
        """Return the bar with the pause and the interventions."""
        store, states = self.store, self.states()
        paused = pause_cells(store.pause, store.pause_left_s()) if store and store.pause else ()
        left = width - sum(len(cell.text) for cell in paused)
        return (*paused, *(bar_cells(states, left) if states and left > 0 else ()))

    def tab_cells(self, note: str, width: int) -> Line:
        """Return the tabs with their counts; `note` is shown at the right."""
        counts = {
            "alerts": len(self.store.alerts) if self.store else 0,
            "interventions": len(self.states()),
            "log": len(self.store.journal) if self.store else 0,
        }
        page = "layers" if self.page == "detail" else self.page
        return tab_cells(page, counts, note, width)

    def intervention_table(self, width: int) -> tuple[list[tuple[Cell, ...]], tuple[Cell, ...]]:
        """Return a line for each intervention in the order of effect, their history, and the titles."""
        step = self.store.step if self.store else None
        header, in_force = in_columns(self.states(), step, width)
        history = history_rows(self.store.journal, width) if self.store else ()
        return [*in_force, *history], header

    def memory_lines(self, width: int) -> tuple[list[tuple[Cell, ...]], list[tuple[Cell, ...]]]:
        """Return the head of the memory page, whose last line has the column titles, and its rows."""
        if self.store is None:
            return [], []
        resources = self.store.resources
        exhausted = exhausted_text([entry.text for entry in self.store.journal])
        head = [*head_lines(resources, exhausted, width), layer_header(width)]
        return head, layer_rows(resources, width - 1)

    def alert_table(self, width: int) -> tuple[list[tuple[Cell, ...]], tuple[Cell, ...]]:
        """Return a line for each alert, and the titles."""
        alerts = self.store.alerts if self.store else ()
        return [alert_row(entry, width) for entry in alerts], alert_header(width)

    def log_rows(self, width: int) -> list[tuple[Cell, ...]]:
        """Return the lines of the log."""
        entries = self.store.journal if self.store else ()
        return [row for entry in entries for row in log_rows(entry, width)]

    def note_answer(self, answer: Answer) -> str:
        """Log the answer to a change; return the text."""
        words = answer.change.in_words
        if answer.is_done:
            since = "" if answer.step is None else f" since step {answer.step:,}"
            text = (
                f"{words}: {'active' if answer.change.command.action == 'install' else 'done'}{since}"
            )
        else:
            text = f"{words}: refused: {answer.reason or 'no reason given'}"
        if self.store is not None:
            self.store.note("info" if answer.is_done else "error", text, answer.step)
        return text

    def _note_phase(self, phase: Phase) -> None:
        """Log when the link breaks, and when it is up again."""
        before, self._phase = self._phase, phase
        if self.store is None or before == phase:
            return
        if phase in ("lost", "none"):
            self._was_lost = True
            self.store.note("warning", "the link to the hub was lost")
        elif phase == "up" and self._was_lost:
            self._was_lost = False
            self.store.note("info", "the link to the hub is up again")

    def _make_status(self, store: RunStore | None, phase: Phase, since_s: float, reason: str) -> Status:
        info = self._session.info()
        is_ended = info is not None and not info.is_live
        status = status_of(store, is_ended=is_ended) if store else Status()
        return replace(status, phase=phase, phase_age_s=since_s, reason=reason)
