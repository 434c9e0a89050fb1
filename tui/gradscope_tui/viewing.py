"""`Viewing`: what is looked at, and in which state it is: run, page, frozen or live, or why there is nothing.

Between the store and the widgets, without either's details: it makes the lines around the pages and draws
the page that is shown.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from textual.widget import Widget

from gradscope.protocol import InterventionState
from gradscope_tui.changes import Answer, Changes
from gradscope_tui.keys import Key, Owner
from gradscope_tui.receiver import Receiver
from gradscope_tui.store import Frame, RunStore, Session
from gradscope_tui.view.cell import Cell
from gradscope_tui.view.lines import bar_cells, intervention_row, key_cells, log_row, tab_cells
from gradscope_tui.view.status import Phase, Status, status_cells, status_of
from gradscope_tui.widgets.calm import no_hub_text, too_small_text, waiting_text
from gradscope_tui.widgets.detail_page import DetailPage
from gradscope_tui.widgets.layer_table import LayerTable
from gradscope_tui.widgets.row_list import RowList

__all__ = ["Viewing"]

_LEAST = (40, 10)

Level: TypeAlias = Literal["information", "warning", "error"]
Line: TypeAlias = tuple[tuple[Cell, ...], dict[int, str]]


class Viewing:
    """Lives as long as the screen. `wanted` is the run that was asked for, None for the only live one."""

    def __init__(self, session: Session, changes: Changes, wanted: str | None) -> None:
        self._session = session
        self._changes = changes
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
        """What is known of the watched run."""
        return self._session.watched

    def choose_run(self, receiver: Receiver) -> bool:
        """Watch the run that was asked for, or the only live one, once there is one; say whether so now."""
        if self.store is not None:
            return False
        live, names = self._session.live(), self._session.names()
        if self._wanted is not None:
            if self._wanted not in names:
                return False
            self.watch(self._wanted, receiver)
            return True
        if len(live) == 1:
            self.watch(live[0], receiver)
            return True
        if len(live) > 1 and not self._has_offered:
            self._has_offered = self.must_choose = True
        return self.must_choose

    def watch(self, run: str, receiver: Receiver) -> None:
        """Turn to a run."""
        self._session.watch(run)
        receiver.watch(run)
        self._frozen = None

    def see(self, receiver: Receiver) -> None:
        """Look at the link and the clock, and make the frame when there is something new."""
        store, link = self.store, receiver.source.link if receiver.source else None
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

    def freeze(self) -> None:
        """Freeze what is shown, or go on."""
        if self._frozen is None and self.frame is not None and self.store is not None:
            self._frozen, self._frozen_at = self.frame, self.store.counters["taken"]
        else:
            self._frozen = None
            self._made_of = None

    @property
    def is_frozen(self) -> bool:
        """Whether the view is frozen."""
        return self._frozen is not None

    @property
    def is_too_small(self) -> bool:
        """Whether the terminal has no room for a table."""
        return self.size[0] < _LEAST[0] or self.size[1] < _LEAST[1]

    @property
    def keys_of(self) -> Owner:
        """Whose keys the key line shows."""
        owners: dict[str, Owner] = {"layers": "layers", "interventions": "interventions", "log": "log"}
        return owners.get(self.page, "detail")

    def known_states(self) -> tuple[InterventionState, ...]:
        """Return the interventions that the run lists."""
        return self.store.interventions if self.store else ()

    def states(self) -> tuple[InterventionState, ...]:
        """Return the run's interventions, with those of this viewer that are pending."""
        revision = self.store.interventions_revision if self.store else None
        return self._changes.merged(self.known_states(), revision)

    def calm_text(self, problem: str) -> str:
        """Return what is said instead of a page; empty where there is something to show."""
        if self.is_too_small:
            return too_small_text(*self.size)
        if self.page == "log" and self.store is not None:
            return ""
        if self.store is None:
            ended = len(self._session.names()) - len(self._session.live())
            if ended and self._wanted is None:
                return waiting_text(None) + f"\n\nR lists {ended} that ended"
            return no_hub_text(self._wanted, "" if "no hub" in problem else problem)
        if self.page == "interventions":
            return (
                ""
                if self.states()
                else "no gradient is changed\n\ni changes those of the marked layers"
            )
        if self.store.revision is None:
            return f"waiting for the layers of {self.store.run}…"
        if not len(self.store.tree):
            return f"{self.store.model or 'this model'} has no layers to show"
        return ""

    def status_cells(self, width: int, *, is_readonly: bool) -> tuple[Cell, ...]:
        """Return the status line."""
        waiting = None
        if self._frozen is not None and self.store is not None:
            waiting = self.store.counters["taken"] - self._frozen_at
        return status_cells(replace(self._status, is_readonly=is_readonly, waiting=waiting), width)

    def bar_cells(self, width: int) -> tuple[Cell, ...]:
        """Return the interventions' bar."""
        states = self.states()
        return bar_cells(states, width) if states else ()

    def tab_cells(self, table: LayerTable, width: int) -> Line:
        """Return the tabs, with what is marked, filtered and sorted at the right."""
        counts = {
            "interventions": len(self.states()),
            "log": len(self.store.journal) if self.store else 0,
        }
        page = "layers" if self.page == "detail" else self.page
        return tab_cells(page, counts, table.in_words, width)

    def key_cells(self, keys: Iterable[Key], width: int) -> Line:
        """Return the key line."""
        return key_cells(keys, width)

    def draw(self, page: Widget) -> None:
        """Draw the page that is shown."""
        if self.store is None or self.frame is None:
            return
        if isinstance(page, LayerTable):
            page.show(self.frame, self.states())
        elif isinstance(page, DetailPage):
            page.show(self.store, self.frame, self.states())
        elif isinstance(page, RowList):
            page.show(self._list_rows(page.id or ""))

    def note_answer(self, answer: Answer) -> tuple[Level, str]:
        """Write an answer into the log; return how serious it is, and its words."""
        words = answer.change.words
        if answer.is_done:
            since = "" if answer.step is None else f" since step {answer.step:,}"
            done = "active" if answer.change.action == "install" else "done"
            level: Level = "information"
            text = f"{words}: {done}{since}"
        else:
            level, text = "error", f"{words}: refused: {answer.reason or 'no reason was given'}"
        if self.store is not None:
            kind: Literal["info", "error"] = "info" if answer.is_done else "error"
            self.store.journal.note(time.time(), kind, text, answer.step)
            self.store.version += 1
        return level, text

    def _list_rows(self, page: str) -> Sequence[tuple[Cell, ...]]:
        if page == "interventions":
            return [intervention_row(state) for state in self.states()]
        return [log_row(entry) for entry in self.store.journal] if self.store else []

    def _note_phase(self, phase: Phase) -> None:
        """Write into the log when the link breaks and when it is back."""
        before, self._phase = self._phase, phase
        if self.store is None or before == phase:
            return
        if phase in ("lost", "none"):
            self._was_lost = True
            self.store.journal.note(
                time.time(), "warning", "the link to the hub was lost", self.store.step
            )
        elif phase == "up" and self._was_lost:
            self._was_lost = False
            self.store.journal.note(
                time.time(), "info", "the link to the hub is up again", self.store.step
            )

    def _make_status(self, store: RunStore | None, phase: Phase, since_s: float, reason: str) -> Status:
        info = self._session.info()
        is_ended = info is not None and not info.is_live
        status = status_of(store, is_ended=is_ended) if store else Status()
        return replace(status, phase=phase, phase_age_s=since_s, reason=reason)
