"""Changes that were checked and wait for their turn: a boundary between two steps.

    prepared (any thread) ──▶ waits ──step boundary──▶ applied (the training's thread)

Whatever a viewer asks for takes effect here and nowhere else. While a part of the step holds the
training at a boundary (a pause), changes go on being applied there.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from gradscope.agent.run.faults import Faults
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import GradscopeError

__all__ = [
    "Boundaries",
    "Change",
    "CommandQueue",
    "Done",
    "Prepared",
    "QueuedCommand",
    "nothing_to_tell",
]

_LOOK_S = 0.25


class Done(Protocol):
    """Called once, when a change is in force."""

    def __call__(self, step: int, id: str = "", layers: tuple[str, ...] = ()) -> None:
        """Tell the first step in which it is, and what was made on which layers."""


@dataclass(frozen=True, slots=True)
class QueuedCommand:
    """What a prepared change is given when its turn has come.

    step: the step that is about to begin, the same on all ranks.
    label: None with one rank; with several, a word that is the same on all of them and is used once:
        what is made by this change carries it in its id.
    done: to be called once the change is in force, now or when the boundary is settled.
    """

    step: int
    label: str | None
    done: Done


Prepared: TypeAlias = Callable[[QueuedCommand], None]
"""A checked change: called in the training's thread, between two steps. What depends on the state
at that boundary is refused there, by raising GradscopeError: before, ranks may be in different steps;
there they all see the same."""


@dataclass(frozen=True, slots=True)
class Change:
    """A prepared change and who waits for it. `step` is the agreed one; None: the next boundary."""

    apply: Prepared
    done: Done
    refuse: Callable[[str], None]
    step: int | None = None
    label: str | None = None


class Boundaries(Protocol):
    """Who must know of each boundary that the training comes to: the agreement between ranks."""

    def reach(self, step: int) -> None:
        """Come to the boundary before `step`: afterwards, all that is decided for it is waiting."""

    def hold(self, step: int) -> None:
        """Stay there: more may be decided for it."""

    def release(self, step: int, is_idle: Callable[[], bool]) -> bool:
        """Leave it, unless there is something to apply yet. Returns whether it was left."""

    def close(self) -> None:
        """End."""


class CommandQueue(StepPlugin):
    """The changes of one run that wait for a boundary. `settle` puts ledgers in force during a hold."""

    name = "changes between two steps"

    def __init__(self, faults: Faults, settle: Callable[[], None]) -> None:
        self._faults = faults
        self._settle = settle
        self._waiting: deque[Change] = deque()
        self._arrival = threading.Condition()
        self._is_closed = False
        self._boundaries: Boundaries | None = None

    def tell(self, boundaries: Boundaries) -> None:
        """Tell somebody of each boundary from now on."""
        self._boundaries = boundaries

    def put(self, change: Change) -> None:
        """Let a change wait for its turn. From any thread; those put first are applied first."""
        with self._arrival:
            self._waiting.append(change)
            self._arrival.notify_all()
        self.wake()

    def at_boundary(self, step: int) -> None:
        """Apply what is due before `step` begins."""
        if self._boundaries is not None:
            self._boundaries.reach(step)
        self._apply(step, is_held=False)
        self.rest_unless(lambda: self._waiting or self._boundaries is not None)

    def hold(self, step: int, is_over: Callable[[], bool]) -> None:
        """Hold the training before `step` until `is_over()`: asked after each change, and often.

        Changes go on being applied and are in force at once. Returns at once when the scope is closed.
        """
        if self._boundaries is not None:
            self._boundaries.hold(step)
        while not self._is_closed:
            if self._apply(step, is_held=not is_over()):
                self._settle()
            elif is_over():
                if self._may_leave(step):
                    return
            else:
                with self._arrival:
                    if not self._waiting and not self._is_closed:
                        self._arrival.wait(_LOOK_S)

    def ask_now(self) -> None:
        """Have `is_over` asked now. From any thread."""
        with self._arrival:
            self._arrival.notify_all()

    def close(self) -> None:
        """End a hold, and refuse what still waits."""
        if self._boundaries is not None:
            self._boundaries.close()
        with self._arrival:
            self._is_closed = True
            left, self._waiting = self._waiting, deque()
            self._arrival.notify_all()
        for change in left:
            change.refuse("the scope was detached before the end of the step")

    def _apply(self, step: int, *, is_held: bool) -> bool:
        """Apply what is due, in order; during a hold one at a time. Return whether anything was.

        During a hold all that is decided is due: the step that was agreed on might never come.
        """
        has_applied = False
        while self._waiting and (is_held or self._is_due(step)):
            self._apply_one(self._waiting.popleft(), step)
            has_applied = True
            if is_held:  # it may have ended the hold: what follows has its own step then
                break
        return has_applied

    def _is_due(self, step: int) -> bool:
        return bool(self._waiting) and (self._waiting[0].step or step) <= step

    def _may_leave(self, step: int) -> bool:
        boundaries = self._boundaries
        return boundaries is None or boundaries.release(step, lambda: not self._is_due(step))

    def _apply_one(self, change: Change, step: int) -> None:
        try:
            change.apply(QueuedCommand(step, change.label, change.done))
        except GradscopeError as error:
            change.refuse(str(error))
        except Exception as error:  # noqa: BLE001 - ours must not become the training's
            self._faults.report("a change between two steps", error, "It was not made.")
            change.refuse(f"it failed: {type(error).__name__}: {error}")


def nothing_to_tell(step: int, id: str = "", layers: tuple[str, ...] = ()) -> None:
    """Nobody waits for this change."""
