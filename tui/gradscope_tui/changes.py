"""`Changes` keeps this viewer's requested interventions, their answers, and how to undo them.

A change is *pending* from when it is sent until the training process acknowledges it with the first
step in force, or refuses it with a reason. It is not shown as active before that.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Literal

from gradscope.names import counted
from gradscope.protocol import Ack, Command, InterventionState
from gradscope_tui.source import Source, send_command
from gradscope_tui.view.intervention_text import action_in_words, intervention_in_words, layers_in_words

__all__ = ["Answer", "Change", "Changes", "removal"]

_HISTORY = 100
_KEPT = "kept"


@dataclass(frozen=True, slots=True)
class Change:
    """A command that installs or removes interventions.

    `removed` are the interventions that the command removes or replaces; undo installs them again.
    `kind`: a change of the person, or one that undoes or repeats such a change.
    """

    command: Command
    removed: tuple[InterventionState, ...] = ()
    kind: Literal["own", "undo", "redo"] = "own"

    @property
    def in_words(self) -> str:
        """A short description, such as `clip ≤1 on head`."""
        command = self.command
        if command.action == "install":
            words = action_in_words(command.intervention, {**command.arguments, **command.choices})
            site = "" if command.site == "output" else f" at {command.site}"
            old = "".join(f" instead of {intervention_in_words(state)}" for state in self.removed)
            return f"{words}{site} on {layers_in_words(command.layers)}{old}"
        gone = [f"{intervention_in_words(s)} on {layers_in_words(s.layers, 1)}" for s in self.removed]
        return "remove " + (", ".join(gone) or "all interventions")


def removal(state: InterventionState, kind: Literal["own", "undo", "redo"] = "own") -> Change:
    """Return the change that removes an intervention."""
    return Change(Command(action="remove", target=state.id), (state,), kind)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a change: the acknowledgement, or None and the reason for a refusal."""

    change: Change
    ack: Ack | None
    reason: str = ""


@dataclass(slots=True)
class _SentChange:
    change: Change
    revision: int | None
    ack: Ack | None = None


class Changes:
    """Lives as long as the app. `on_answer` is called with each answer, in the source's thread."""

    def __init__(self, on_answer: Callable[[Answer], object]) -> None:
        self._on_answer = on_answer
        self._sent: list[_SentChange] = []
        self._undoable: list[tuple[Change, str]] = []
        self._undone: list[tuple[Change, tuple[Change, ...]]] = []
        self._own: dict[str, Change] = {}
        self.version = 0

    def send(self, source: "Source | None", change: Change, revision: int | None) -> None:
        """Send a change. The answer arrives later; without a link, the change is refused immediately.

        `revision` is the newest revision of the run's interventions that this viewer has received.
        """
        self._sent.append(_SentChange(change, revision))
        self.version += 1
        send_command(
            source, change.command, lambda ack, reason: self._on_answer(Answer(change, ack, reason))
        )

    def note_answer(self, answer: Answer) -> None:
        """Store an answer."""
        self.version += 1
        if answer.ack is None:
            self._sent = [sent for sent in self._sent if sent.change is not answer.change]
            return
        for sent in self._sent:
            if sent.change is answer.change:
                sent.ack = answer.ack
        if answer.change.command.action == "install":
            self._own[answer.ack.id] = answer.change
        if answer.change.kind == "own":
            self._undone = []
        if answer.change.kind != "undo":
            self._undoable = [*self._undoable, (answer.change, answer.ack.id)][-_HISTORY:]

    def with_own(
        self, known: Collection[InterventionState], revision: int | None
    ) -> tuple[InterventionState, ...]:
        """Return the run's interventions, and this viewer's that the run does not list yet."""
        self._sent = [sent for sent in self._sent if sent.ack is None or sent.revision == revision]
        commands = [(sent, sent.change.command) for sent in self._sent]
        ids = {state.id for state in known}
        gone = {each.target for sent, each in commands if sent.ack and each.action == "remove"}
        own = [_state_of(sent) for sent, each in commands if each.action == "install"]
        listed = [state for state in known if state.id not in gone]
        return (*listed, *(state for state in own if not state.id or state.id not in ids))

    @property
    def pending(self) -> int:
        """The number of changes without an answer."""
        return sum(sent.ack is None for sent in self._sent)

    def ending_with_viewer(self, known: Collection[InterventionState]) -> tuple[InterventionState, ...]:
        """Return this viewer's active and pending interventions that end when it disconnects."""
        own = {name for name, change in self._own.items() if not change.command.is_kept}
        return tuple(s for s in known if s.id in own or (not s.id and s.end != _KEPT))

    def pop_undo(self, known: Collection[InterventionState]) -> tuple[Change, ...]:
        """Remove the newest undoable change from the history; return the changes that undo it."""
        ids = {state.id: state for state in known}
        while self._undoable:
            change, id = self._undoable.pop()
            is_install = change.command.action == "install"
            if is_install and id not in ids:
                continue
            undoing = (
                *((removal(ids[id], "undo"),) if is_install else ()),
                *(_install_again(state) for state in change.removed),
            )
            if undoing:
                self._undone.append((change, undoing))
                return undoing
        return ()

    def pop_redo(self, known: Collection[InterventionState]) -> tuple[Change, ...]:
        """Remove the newest undone change from the history; return the changes that repeat it."""
        while self._undone:
            change, undoing = self._undone.pop()
            restored = {id for id, own in self._own.items() if any(own is each for each in undoing)}
            states = tuple(state for state in known if state.id in restored)
            if change.command.action == "install":
                return *(removal(state, "undo") for state in states), replace(
                    change, removed=states, kind="redo"
                )
            if states:
                return tuple(removal(state, "redo") for state in states)
        return ()


def _state_of(sent: _SentChange) -> InterventionState:
    command, ack = sent.change.command, sent.ack
    return InterventionState(
        id=ack.id if ack else "",
        action=command.intervention,
        arguments=command.arguments,
        layers=ack.layers if ack and ack.layers else command.layers,
        site=command.site,
        set_by="this viewer",
        active_since=ack.step if ack else None,
        end=_end_in_words(command),
        choices=command.choices,
        schedule=command.schedule,
    )


def _end_in_words(command: Command) -> str:
    if command.end_steps is not None:
        return f"after {counted(command.end_steps, 'step')}"
    return _KEPT if command.is_kept else "with its viewer"


def _install_again(state: InterventionState) -> Change:
    command = Command(
        action="install",
        intervention=state.action,
        arguments=state.arguments,
        choices=state.choices,
        layers=state.layers,
        site=state.site,
        schedule=state.schedule,
    )
    return Change(command, kind="undo")
