"""`Changes`: what this viewer asked the training to change, what came of it, and how to undo it.

A change is *pending* from the moment it is sent until the training process acknowledges it with the
step from which it is in force, or refuses it with a reason. Nothing is shown as active before that.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from gradscope.errors import GradscopeError
from gradscope.protocol import Ack, InterventionState, Schedule
from gradscope_tui.source import Source
from gradscope_tui.view.intervention_text import layers_in_words, short, what

__all__ = ["Answer", "Change", "Changes"]

_HISTORY = 100
_KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Change:
    """One command. `removed` are the interventions that a removal takes away, kept for undo."""

    action: Literal["install", "remove", "remove_all"]
    intervention: str = ""
    arguments: tuple[tuple[str, float], ...] = ()
    layers: tuple[str, ...] = ()
    target: str = ""
    end_steps: int | None = None
    is_kept: bool = False
    choices: tuple[tuple[str, str], ...] = ()
    site: str = "output"
    schedule: Schedule | None = None
    removed: tuple[InterventionState, ...] = ()
    is_undo: bool = False

    @property
    def words(self) -> str:
        """The change in a few words."""
        if self.action == "install":
            words = short(self.intervention, {**dict(self.arguments), **dict(self.choices)})
            place = "" if self.site == "output" else f" at {self.site}"
            return f"{words}{place} on {layers_in_words(self.layers)}"
        gone = [f"{what(s)} on {layers_in_words(s.layers, 1)}" for s in self.removed]
        return "remove " + (", ".join(gone) or "all interventions")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a change: the first step in force, or the reason why it was not done."""

    change: Change
    is_done: bool
    id: str = ""
    step: int | None = None
    layers: tuple[str, ...] = ()
    reason: str = ""


@dataclass(slots=True)
class _Sent:
    change: Change
    revision: int | None
    answer: Answer | None = None


class Changes:
    """Lives as long as the screen. `tell` is called with each answer, from the source's thread."""

    def __init__(self, tell: Callable[[Answer], object]) -> None:
        self._tell = tell
        self._sent: list[_Sent] = []
        self._done: list[Answer] = []
        self._mine: dict[str, Change] = {}
        self.version = 0

    def send(self, source: Source | None, change: Change, revision: int | None) -> None:
        """Send a change. Its answer comes later; without a link it is refused here."""
        self._sent.append(_Sent(change, revision))
        self.version += 1
        if source is None:
            self._tell(Answer(change, is_done=False, reason="there is no link to the training process"))
            return
        try:
            future = source.submit(
                change.action,
                intervention=change.intervention,
                arguments={**dict(change.arguments), **dict(change.choices)},
                layers=change.layers,
                site=change.site,
                schedule=change.schedule,
                target=change.target,
                end_steps=change.end_steps,
                is_kept=change.is_kept,
            )
        except GradscopeError as error:
            self._tell(Answer(change, is_done=False, reason=str(error)))
            return
        future.add_done_callback(lambda done: self._tell(_answer(change, done.exception(), done)))

    def settle(self, answer: Answer) -> None:
        """Take an answer."""
        self.version += 1
        for sent in self._sent:
            if sent.change is answer.change and sent.answer is None:
                sent.answer = answer
                break
        if not answer.is_done:
            self._sent = [sent for sent in self._sent if sent.change is not answer.change]
            return
        if answer.change.action == "install":
            self._mine[answer.id] = answer.change
        if not answer.change.is_undo:
            self._done = [*self._done, answer][-_HISTORY:]

    def merged(
        self, known: Collection[InterventionState], revision: int | None
    ) -> tuple[InterventionState, ...]:
        """Return the run's interventions, and this viewer's that it does not list yet."""
        self._sent = [sent for sent in self._sent if sent.answer is None or sent.revision == revision]
        ids = {state.id for state in known}
        gone = {s.answer.change.target for s in self._sent if s.answer and s.change.action == "remove"}
        own = [_state(sent) for sent in self._sent if sent.change.action == "install"]
        listed = [state for state in known if state.id not in gone]
        return (*listed, *(state for state in own if not state.id or state.id not in ids))

    @property
    def pending(self) -> int:
        """How many changes wait for their answer."""
        return sum(sent.answer is None for sent in self._sent)

    def mine(self, known: Collection[InterventionState]) -> tuple[InterventionState, ...]:
        """Return those of this viewer that are in force, or about to be, and end with it."""
        own = {name for name, change in self._mine.items() if not change.is_kept}
        return tuple(s for s in known if s.id in own or (not s.id and s.end != _KEPT))

    def undone(self, known: Collection[InterventionState]) -> tuple[Change, ...]:
        """Take the newest change that can be undone from the history; return what undoes it."""
        ids = {state.id: state for state in known}
        while self._done:
            answer = self._done.pop()
            if answer.change.action == "install" and answer.id in ids:
                return (Change("remove", target=answer.id, removed=(ids[answer.id],), is_undo=True),)
            again = tuple(_install_again(state) for state in answer.change.removed)
            if again:
                return again
        return ()


def _answer(change: Change, error: BaseException | None, done: object) -> Answer:
    if error is not None:
        return Answer(change, is_done=False, reason=str(error))
    ack: Ack = done.result()  # type: ignore[attr-defined]  # a finished future of an Ack
    return Answer(change, ack.is_done, ack.id, ack.step, ack.layers, ack.reason)


def _state(sent: _Sent) -> InterventionState:
    change, answer = sent.change, sent.answer
    return InterventionState(
        id=answer.id if answer else "",
        action=change.intervention,
        arguments=dict(change.arguments),
        layers=answer.layers if answer and answer.layers else change.layers,
        site=change.site,
        set_by="this viewer",
        active_since=answer.step if answer else None,
        end=end_in_words(change),
        choices=dict(change.choices),
        schedule=change.schedule,
    )


def end_in_words(change: Change) -> str:
    """Return when a change ends."""
    if change.end_steps is not None:
        return f"after {change.end_steps:,} steps"
    return _KEPT if change.is_kept else "with its viewer"


def _install_again(state: InterventionState) -> Change:
    return Change(
        "install",
        state.action,
        tuple(state.arguments.items()),
        state.layers,
        choices=tuple(state.choices.items()),
        site=state.site,
        schedule=state.schedule,
        is_undo=True,
    )
