"""`Presenter` selects the run, page and frame to show, and the status and texts around them.

It connects store and screen: it reads the link and the run, and uses no widget.
"""

# ruff: noqa: RUF001 - the signs are meant

import textwrap
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from gradscope.findings import Verdict
from gradscope.names import counted
from gradscope.protocol import InterventionState
from gradscope_tui.changes import Answer, Changes
from gradscope_tui.keys import KEYS, Owner
from gradscope_tui.own_keys import read_own_keys, with_own_keys
from gradscope_tui.replay import Replay
from gradscope_tui.source import Connector, Source
from gradscope_tui.store.measure import Frame
from gradscope_tui.store.reference import MarkedStep, OtherRun, Reference
from gradscope_tui.store.run import RunStore
from gradscope_tui.store.session import Session
from gradscope_tui.store.timeline import Landmark, Timeline, landmarks_of, place_of
from gradscope_tui.view.cell import printable
from gradscope_tui.view.status import Phase, Status, status_of

__all__ = ["Presenter"]

_LEAST = (40, 10)

_NO_INTERVENTIONS = (
    "No active interventions.\n\n"
    "Press i to add one to the marked layers, B for a breakpoint, or W for a rule."
)
_NO_MEMORY = (
    "No memory data yet.\n\n"
    "Memory is measured in the first step, then occasionally.\nPress m to measure the next step."
)
_NONE_THEN = "No active interventions at this step, and none before it."
_NO_MEMORY_THEN = "Memory and time were not measured up to this step."


class Presenter:
    """Lives as long as the app. `wanted` is the run to watch; None means the only live run."""

    def __init__(
        self,
        session: Session,
        changes: Changes,
        connector: Connector,
        wanted: str | None,
        *,
        is_readonly: bool,
    ) -> None:
        self._session = session
        self._changes = changes
        self._connector = connector
        self._wanted = wanted
        self._was_lost = False
        self._noted: Counter[str] = Counter()
        self.is_readonly = is_readonly
        self.status = Status()
        self._frozen: Frame | None = None
        self._frozen_at = 0
        self._past_step: int | None = None
        self._made_of: object = None
        self.frame: Frame | None = None
        self.keys, self.keys_problem = KEYS, ""
        self.page = "layers"
        self.size = (80, 24)
        self.must_choose = False
        self.reference: Reference | None = None
        self.replay: Replay | None = None
        self._has_offered = False

    @property
    def store(self) -> RunStore | None:
        """The store of the watched run."""
        return self._session.watched

    @property
    def source(self) -> "Source | None":
        """The source, once there is one. A recording has none, so nothing can be sent to a run."""
        return None if self.replay else self._connector.source

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

    def use_own_keys(self, path: Path | None) -> dict[str, str]:
        """Use the keys of a file; return them by name. `keys_problem` says what is wrong with it."""
        own, self.keys_problem = read_own_keys(path, KEYS)
        self.keys = with_own_keys(KEYS, own)
        return own

    def shown_key(self, owner: Owner, action: str) -> str:
        """Return the key of an action, as people read it."""
        return next(key.shown for key in self.keys if (key.owner, key.action) == (owner, action))

    def watch(self, run: str) -> None:
        """Watch a run."""
        self._session.watch(run)
        if self._connector.source is not None:
            self._connector.source.watch(run, ranks="merged")
        self._frozen = None

    def open_recording(self, path: Path, notify: Callable[[], object], step: int | None = None) -> None:
        """Show a recording, at `step` or at its end. `notify` is called in its thread when there is something new."""
        self.close_recording()
        self.replay = Replay(path, notify, step=step)
        self.replay.start()
        self._frozen, self._past_step = None, None

    def close_recording(self) -> None:
        """End the thread of the recording, if one is open."""
        if self.replay is not None:
            self.replay.stop()
            self.replay = None

    def update(self) -> None:
        """Update the status from the link and the clock, and the frame if there is new data."""
        store = self.store
        source = self.source
        phase: Phase = source.link.phase if source else "none"
        if self.replay is None:
            self._note_phase(phase)
        dropped = source.counters.get("inbox_dropped", 0) if source else 0
        if store is not None:
            self._note_losses(store, dropped)
        self.status = replace(
            status_of(store, None if self.replay else self._session.end()) if store else Status(),
            recording=_recording_in_words(self.replay) if self.replay else "",
            phase=phase,
            reason=source.link.reason if source else "",
            dropped=dropped,
            is_readonly=self.is_readonly,
            waiting=store.counters["taken"] - self._frozen_at if store and self._frozen else None,
        )
        made_of = (id(store), store.version if store else 0)
        if store is not None and made_of != self._made_of:
            self._made_of = made_of
            self.frame = store.frame()
        if self._frozen is not None:
            self.frame = self._frozen
        if self.reference is not None and self.frame is not None:
            self.reference.follow(self.frame.measured.step)

    def compare_with(self, reference: Reference | None) -> None:
        """Compare what is shown with this from now on; None: with nothing."""
        if self.reference is not None:
            self.reference.close()
        self.reference = reference

    def compare_with_recording(self, path: Path, notify: Callable[[], object]) -> None:
        """Compare with another recording at the same step, and search for the first difference.

        notify: called in a thread when there is something new.
        """
        run = self.store.run if self.store else None
        known = next((info.recording for info in self._session.runs if info.run == run), "")
        own = self.replay.path if self.replay is not None else Path(known) if known else None
        reference = OtherRun(path, notify, own=own)
        self.compare_with(reference)
        reference.start()

    def mark_step(self) -> str:
        """Compare from now on with the shown step, or end the comparison. Return what was done."""
        if self.reference is not None:
            self.compare_with(None)
            return "The comparison has ended."
        if self.frame is None or self.store is None or self.frame.measured.step < 0:
            return "There is no step to mark yet."
        rank = self.store.ranks.in_words()
        words = f"step {self.frame.measured.step:,}" + (f" of {rank}" if rank else "")
        self.compare_with(MarkedStep(self.frame, words))
        return f"Marked {words}. The table compares the shown step with it; M ends this."

    @property
    def other(self) -> tuple[Frame, str] | None:
        """The frame with which the shown one is compared, and what it is."""
        reference = self.reference
        if reference is None or reference.frame is None:
            return None
        return reference.frame, reference.words

    @property
    def differing(self) -> str | None:
        """The layer in which two compared runs differ first, from that step on."""
        found = self.reference.comparison if self.reference is not None else None
        if found is None or found.first is None or self.frame is None:
            return None
        return found.first.layer if self.frame.measured.step >= found.first.step else None

    def choose_rank(self) -> str:
        """Select the next choice of ranks; return its label."""
        words = self.store.choose_rank() if self.store is not None else ""
        if self.replay is not None and self.store is not None:
            self.replay.select_rank(self.store.ranks.choice)
        elif words and self.source is not None and self.store is not None:
            choice = self.store.ranks.choice
            self.source.watch(self.store.run, ranks="merged" if choice is None else choice)
        return f"Showing {words}." if words else "This run has one rank."

    def freeze(self) -> None:
        """Freeze the view, or unfreeze it. A recording stands still by itself."""
        if self.replay is not None:
            return
        if self._frozen is None and self.frame is not None and self.store is not None:
            self._frozen, self._frozen_at = self.frame, self.store.counters["taken"]
        else:
            self.show_newest()

    @property
    def timeline(self) -> Timeline | None:
        """The position in a recording, or among the kept steps of a live run; None if that is at its newest step."""
        if self.replay is not None:
            return self._with_difference(self.replay.timeline)
        if self._past_step is None or self.store is None:
            return None
        steps = self.store.past_steps()
        if self._past_step not in steps:
            return None
        marks = landmarks_of(steps, self.store.verdict.every(), self.states())
        kept = tuple(mark for mark in marks if mark.step >= steps[0])
        place = place_of(steps, self._past_step)
        return self._with_difference(
            Timeline(steps, steps[0], steps[-1], place, self._past_step, kept, is_live=True)
        )

    def replay_landmark(self, direction: int) -> bool:
        """Go to the next or previous landmark of a recording. Return whether there is one."""
        line, replay = self.timeline, self.replay
        if line is None or replay is None:
            return False
        place = replace(line, place=replay.place).place_of_landmark(direction)
        if place is not None:
            replay.is_playing = False
            replay.go_to(place)
        return place is not None

    def _with_difference(self, line: Timeline | None) -> Timeline | None:
        """Return a timeline with the first difference of two compared runs as a landmark."""
        found = self.reference.comparison if self.reference is not None else None
        if line is None or found is None or found.first is None or not line.steps:
            return line
        step, text = found.first.step, self.reference.note if self.reference else ""
        mark = Landmark(step, place_of(line.steps, step), "≠", text)
        marks = sorted((*line.landmarks, mark), key=lambda each: (each.step, each.sign))
        return replace(line, landmarks=tuple(marks))

    def scrub(self, distance: int) -> str:
        """Show an earlier or later kept step of a live run. Return why there is none; empty if there is."""
        steps = self.store.past_steps() if self.store is not None else []
        if len(steps) < 2:
            return "There is no earlier observed step yet."
        shown = steps[-1] if self._past_step is None else self._past_step
        if self.is_frozen and self._past_step is None and self.frame is not None:
            shown = self.frame.measured.step
        return self._show_past(steps, place_of(steps, shown) + distance)

    def scrub_to_landmark(self, direction: int) -> str:
        """Show the step of the next or previous finding or intervention. Return why there is none."""
        if self._past_step is None:
            self.scrub(0)
        line = self.timeline
        place = line.place_of_landmark(direction) if line is not None else None
        if line is None or place is None:
            where = "after" if direction > 0 else "before"
            return (
                f"No finding and no intervention begins {where} this step, in the steps that are kept."
            )
        return self._show_past(line.steps, place)

    def _show_past(self, steps: Sequence[int], place: int) -> str:
        if place < 0:
            return f"Step {steps[0]:,} is the oldest one that this screen has kept."
        if place >= len(steps):
            was_past = self._past_step is not None
            self.show_newest()
            return "" if was_past else "This is the newest step."
        frame = self.store.past_frame(steps[place]) if self.store is not None else None
        if frame is None or self.store is None:
            return "This step is no longer kept."
        if self._frozen is None:
            self._frozen_at = self.store.counters["taken"]
        self._frozen, self._past_step = frame, steps[place]
        self.update()
        return ""

    def show_newest(self) -> None:
        """Show the newest step again, and later ones."""
        self._frozen, self._past_step, self._made_of = None, None, None
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
        pages: tuple[Owner, ...] = ("layers", "interventions", "findings", "detail", "depth")
        return next((page for page in pages if page == self.page), "main")

    @property
    def _compared_version(self) -> object:
        reference = self.reference
        return None if reference is None else (id(reference), id(reference.frame), reference.note)

    @property
    def version(self) -> object:
        """A value that changes whenever the page must be redrawn."""
        return (
            self._session.version,
            self._changes.version,
            self.is_frozen,
            self._past_step,
            self._made_of,
            self._compared_version,
        )

    @property
    def is_changeable(self) -> bool:
        """Whether this viewer can change what it shows: neither read-only nor a recording."""
        return not self.is_readonly and self.replay is None

    def states(self) -> tuple[InterventionState, ...]:
        """Return the run's interventions, and the pending ones of this viewer."""
        if self.replay is not None:
            return self.store.interventions if self.store else ()
        if self.store is None:
            return self._changes.with_own((), None)
        return self._changes.with_own(self.store.interventions, self.store.interventions_revision)

    def empty_text(self) -> str:
        """Return the text for a page without content; empty if the page has content."""
        if self.is_too_small:
            return _too_small_text(*self.size)
        store = self.store
        if self.replay is not None and (store is None or self.replay.problem):
            return self.replay.problem or "Opening the recording…"
        if store is None:
            ended = len(self._session.names()) - len(self._session.live())
            if self._wanted is not None:
                ended = 0
            return _waiting_text(self._wanted, problem=self._connector.problem, ended=ended)
        return self._empty_page_text(store)

    def _empty_page_text(self, store: RunStore) -> str:
        if self.page == "log" or (
            self.page == "findings" and (store.verdict.findings or len(store.events))
        ):
            return ""
        if self.page == "findings":
            return _no_findings_text(store.verdict, self.size[0] - 4)
        if self.page == "interventions":
            has_lines = (
                self.states()
                or store.breakpoints
                or store.rules
                or any(entry.is_of_intervention for entry in store.journal)
            )
            return "" if has_lines else _NO_INTERVENTIONS if self.replay is None else _NONE_THEN
        if self.page == "memory" and store.resources.memory is None and store.resources.times is None:
            return _NO_MEMORY if self.replay is None else _NO_MEMORY_THEN
        has_manifest = store.revision is not None
        return (
            ""
            if len(store.tree)
            else _no_layers_text(store.run, store.model, has_manifest=has_manifest)
        )

    def note_answer(self, answer: Answer) -> str:
        """Log the answer to a change; return the text."""
        words, ack = answer.change.in_words, answer.ack
        if ack is None:
            text = f"{words}: refused: {answer.reason or 'no reason given'}"
        else:
            done = "active" if answer.change.command.action == "install" else "done"
            text = f"{words}: {done}" + ("" if ack.step is None else f" since step {ack.step:,}")
        if self.store is not None:
            self.store.note("info" if ack else "error", text, ack.step if ack else None)
        return text

    def _note_phase(self, phase: Phase) -> None:
        """Log when the link breaks, and when it is up again."""
        if self.store is None or phase == self.status.phase:
            return
        if phase in ("lost", "none"):
            self._was_lost = True
            self.store.note("warning", "the link to the hub was lost")
        elif phase == "up" and self._was_lost:
            self._was_lost = False
            self.store.note("info", "the link to the hub is up again")

    def _note_losses(self, store: RunStore, dropped: int) -> None:
        """Log each kind of loss once, and again after ten times as many."""
        losses = {
            "dropped by this viewer, which was too slow: steps are missing in the curves": dropped,
            "dropped by the training, which could not send in time": store.counters["dropped"],
            "could not be read by this viewer": store.unreadable,
        }
        for how, count in losses.items():
            if count > 10 * self._noted[how]:
                self._noted[how] = count
                store.note("warning", f"{counted(count, 'message')} {how}")


def _recording_in_words(replay: Replay) -> str:
    """Return that this is a recording; at its last step also how the run ended."""
    run = replay.run
    if run is None or replay.shown_place != run.last_place:
        return "■ recording, not live"
    if not run.is_ended:
        return "■ recording, not live: the end of the run is not recorded"
    return "■ recording: ended" + (f": {printable(run.reason)}" if run.reason else "")


def _no_findings_text(verdict: Verdict, width: int) -> str:
    """Return the text of the Findings tab without findings: what was checked, and what was not."""
    gaps = [gap.text for gap in verdict.checked.not_checked]
    nothing = "Nothing found" if verdict.checked.steps else "Nothing checked yet,"
    paragraphs = [f"{nothing} {verdict.checked.text}.", *(["Not checked:", *gaps] if gaps else [])]
    return "\n\n".join(textwrap.fill(each, max(20, width)) for each in paragraphs)


def _waiting_text(run: str | None, *, problem: str = "", ended: int = 0) -> str:
    """Return the text while there is no run to watch. `ended` runs can be chosen with R."""
    which = "a run" if run is None else f"the run {run!r}"
    more = f"\n\nPress R to choose one of {counted(ended, 'ended run')}." if ended else ""
    return (
        f"Waiting for {which}…\n\n"
        "Start your training script with gradscope:\n\n"
        "gradscope run train.py\n\n"
        "This screen connects automatically." + more + (f"\n\n{problem}" if problem else "")
    )


def _no_layers_text(run: str, model: str, *, has_manifest: bool) -> str:
    """Return the text while there are no layers."""
    return f"{model or 'The model'} has no layers to show." if has_manifest else f"Waiting for {run}…"


def _too_small_text(width: int, height: int) -> str:
    """Return the text for a terminal without room for a table."""
    return f"{width} × {height} is too small.\n40 × 10 is enough."
