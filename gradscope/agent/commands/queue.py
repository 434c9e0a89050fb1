"""Checked commands that wait for a step boundary.

    prepared (any thread) ──▶ queued ──step boundary──▶ applied (training thread)

Every command of a viewer takes effect at a step boundary. During a pause, commands are applied at the
boundary where training is held.
"""

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias

from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import GradscopeError

if TYPE_CHECKING:
    from gradscope.agent.commands.consensus import Consensus

__all__ = [
    "Boundary",
    "CommandQueue",
    "OnDone",
    "PendingCommand",
    "Prepared",
    "ignore_done",
]

_POLL_S = 0.25

_WAITING_LIMIT = 64
"""Each command that is applied sends up to three messages, and the publisher's queue has 256 places. Commands on which
the ranks have agreed have no limit here, because one rank must not refuse them."""


class OnDone(Protocol):
    """A callback that is called once, when a command is in force."""

    def __call__(self, step: int, id: str = "", layers: tuple[str, ...] = ()) -> None:
        """Report the first step in which the command is in force, and the id and layers that it created."""


@dataclass(frozen=True, slots=True)
class Boundary:
    """The step boundary at which a prepared command is applied.

    step: the step that is about to begin; the same on all ranks.
    label: None with one rank. With several ranks, a unique string that is the same on all ranks; it is
        part of the id that the command creates.
    done: must be called once the command is in force: now, or when the ledger has applied the request.
    """

    step: int
    label: str | None
    done: OnDone


Prepared: TypeAlias = Callable[[Boundary], None]
"""Applies a checked command; called in the training thread, between two steps. Raises GradscopeError to refuse
the command because of the state at that boundary. All ranks have the same state there, but may be in
different steps before."""


@dataclass(frozen=True, slots=True)
class PendingCommand:
    """A prepared command, with the callbacks for its result.

    step: the step that the ranks agreed on; None means the next boundary.
    """

    apply: Prepared
    done: OnDone
    refuse: Callable[[str], None]
    step: int | None = None
    label: str | None = None


class CommandQueue(StepPlugin):
    """The commands of one run that wait for a boundary.

    During a hold, `settle` is called so that the ledger applies its requests.
    """

    name = "commands between two steps"

    def __init__(self, run: RunContext, engine: StepEngine) -> None:
        self._run = run
        self._engine = engine
        self._waiting: deque[PendingCommand] = deque()
        self._arrival = threading.Condition()
        self._is_closed = False
        self._no_step_reason = ""
        self._consensus: Consensus | None = None

    def set_consensus(self, consensus: "Consensus") -> None:
        """Call the consensus of ranks at each boundary from now on."""
        self._consensus = consensus

    def put(self, command: PendingCommand) -> None:
        """Queue a command. Thread-safe; commands are applied in the order of `put`. Refuses it if 64 are waiting."""
        with self._arrival:
            reason = self._no_step_reason
            if not reason and command.step is None and len(self._waiting) >= _WAITING_LIMIT:
                reason = (
                    f"{_WAITING_LIMIT} commands wait for the end of the step already; try again later"
                )
            if not reason:
                self._waiting.append(command)
                self._arrival.notify_all()
        if reason:
            command.refuse(reason)
        self._run.plan_again()

    def no_step_ends(self, reason: str) -> None:
        """Refuse the queued commands, and all later ones until a step ends.

        Commands on which several ranks have agreed stay queued: a rank must not refuse them alone.
        """
        if self._consensus is not None:
            self._consensus.no_step_ends(reason)
            return
        self._no_step_reason = reason
        self._refuse_waiting(reason)

    def next_active_step(self, step: int) -> int | None:
        """Return `step` if commands are queued or if other ranks may have decided on commands."""
        is_needed = self._waiting or self._no_step_reason or self._consensus is not None
        return step if is_needed else None

    def at_boundary(self, step: int) -> None:
        """Apply the commands that are due before `step`."""
        self._no_step_reason = ""
        if self._consensus is not None:
            self._consensus.reach(step)
        self._apply(step, is_held=False)

    def hold(self, step: int, is_over: Callable[[], bool]) -> None:
        """Hold training before `step` until `is_over()` is True. Commands are applied during the hold.

        `is_over()` is called often, and after each command. Commands are in force at once. Returns at
        once if the queue is closed.
        """
        if self._consensus is not None:
            self._consensus.hold(step)
        while not self._is_closed:
            if self._apply(step, is_held=not is_over()):
                self._engine.apply_interventions_now()
            elif is_over():
                if self._may_leave(step):
                    return
            else:
                with self._arrival:
                    if not self._waiting and not self._is_closed:
                        self._arrival.wait(_POLL_S)

    def recheck_hold(self) -> None:
        """Have `is_over` of the current hold called soon. Thread-safe."""
        with self._arrival:
            self._arrival.notify_all()

    def close(self) -> None:
        """End a hold, and refuse the commands that are still queued."""
        if self._consensus is not None:
            self._consensus.close()
        self._is_closed = True
        self._refuse_waiting("the scope was detached before the end of the step")

    def _refuse_waiting(self, reason: str) -> None:
        with self._arrival:
            left, self._waiting = self._waiting, deque()
            self._arrival.notify_all()
        for command in left:
            command.refuse(reason)

    def _apply(self, step: int, *, is_held: bool) -> bool:
        """Apply the due commands, in order; during a hold, one of them. Return whether any was applied.

        During a hold every queued command is due: training might never reach the step that was agreed
            on.
        """
        has_applied = False
        while self._waiting and (is_held or self._is_due(step)):
            self._apply_one(self._waiting.popleft(), step)
            has_applied = True
            if is_held:  # it may have ended the hold: then the next ones are due at their own steps
                break
        return has_applied

    def _is_due(self, step: int) -> bool:
        return bool(self._waiting) and (self._waiting[0].step or step) <= step

    def _may_leave(self, step: int) -> bool:
        return self._consensus is None or self._consensus.release(step, lambda: not self._is_due(step))

    def _apply_one(self, command: PendingCommand, step: int) -> None:
        try:
            command.apply(Boundary(step, command.label, command.done))
        except GradscopeError as error:
            command.refuse(str(error))
        except Exception as error:  # noqa: BLE001 - ours must not become the training's
            self._run.faults.report("a command between two steps", error, "It was not applied.")
            command.refuse(f"it failed: {type(error).__name__}: {error}")


def ignore_done(step: int, id: str = "", layers: tuple[str, ...] = ()) -> None:
    """Ignore that a command is in force, for callers that do not need the result."""
