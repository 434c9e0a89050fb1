"""The gate: the training stands before a step, for as long as a lease lasts, and goes on.

    open ──pause, a breakpoint──▶ closed before step n ──resume, or the lease ends──▶ open
                                        └──step once──▶ open for step n, closed before n + 1

A lease is at most five minutes and is renewed by pausing again: a viewer that dies cannot keep a
training standing. While the gate is closed commands are obeyed, and what they change is in force.

With several ranks the gate closes and opens only by what all of them apply at the same boundary; what
one rank finds by itself (a breakpoint, the end of the lease) it asks for. The lease runs on each rank
by its own clock; the leading rank asks to go on, and a rank that hears nothing goes on by itself ten
seconds later. No collective waits meanwhile but those of ranks that are early by that much.
"""

import time
from collections.abc import Callable
from typing import Final

from gradscope.agent.commands.queue import CommandQueue, Prepared, QueuedCommand
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import UsageError
from gradscope.protocol import Command, PauseState

__all__ = ["LEASE_LIMIT_S", "LEASE_S", "Pause", "check_lease"]

LEASE_S: Final = 60.0
"""How long a pause lasts unless it is told otherwise."""

LEASE_LIMIT_S: Final = 300.0
"""The longest lease: below the time-outs of collectives, ten minutes and more."""

_GRACE_S: Final = 10.0


def check_lease(lease_s: object) -> float:
    """Return the lease in seconds. Raises UsageError for one that is not above 0 and at most 300."""
    if lease_s is None:
        return LEASE_S
    is_number = isinstance(lease_s, int | float) and not isinstance(lease_s, bool)
    if not is_number or not 0 < float(lease_s) <= LEASE_LIMIT_S:  # type: ignore[arg-type]  # it is a number
        raise UsageError(
            f"a lease is above 0 and at most {LEASE_LIMIT_S:g} seconds, got {lease_s!r}; a longer "
            "pause is renewed by pausing again"
        )
    return float(lease_s)  # type: ignore[arg-type]  # as above


class Pause(StepPlugin):
    """Holds the training between two steps. Its time is in no step's time.

    `announce` tells viewers that the state has changed, `note(code, text)` makes an event,
    `ask_to_resume` has all ranks resume; `is_alone` and `is_lead` say who may do what by itself.
    """

    name = "the pause"

    def __init__(
        self,
        turns: CommandQueue,
        *,
        announce: Callable[[], None],
        note: Callable[[str, str], None],
        ask_to_resume: Callable[[], None],
        is_alone: bool,
        is_lead: bool,
    ) -> None:
        self._turns = turns
        self._announce = announce
        self._note = note
        self._ask_to_resume = ask_to_resume
        self._is_alone = is_alone
        self._is_lead = is_lead
        self._is_closed = False
        self._has_asked = False
        self._closes_at: int | None = None
        self._ends_s = 0.0
        self._lease_s = LEASE_S
        self._set_by = ""
        self._reason = ""
        self._step: int | None = None

    @property
    def state(self) -> PauseState | None:
        """Where the training stands; None while it runs."""
        step = self._step
        if step is None or not self._is_closed:
            return None
        left_s = max(0.0, self._ends_s - time.monotonic())
        return PauseState(step, left_s, self._set_by, self._reason)

    @property
    def is_closed(self) -> bool:
        """Whether the training stands, or will at the next boundary."""
        return self._is_closed

    def pause(self, *, lease_s: float = LEASE_S, set_by: str = "script", reason: str = "") -> None:
        """Close the gate at the next boundary, or renew the lease of one that is closed."""
        self._lease_s, self._set_by, self._reason = lease_s, set_by, reason or self._reason
        self._ends_s = time.monotonic() + lease_s
        self._has_asked = False
        self._is_closed = True
        self.wake()
        if self._step is not None:
            self._announce()

    def resume(self) -> None:
        """Open the gate."""
        self._is_closed, self._closes_at, self._reason = False, None, ""
        self._turns.ask_now()

    def step_once(self, step: int, *, lease_s: float, set_by: str) -> None:
        """Let `step` run, and close the gate before the next."""
        self.resume()
        self._closes_at, self._lease_s, self._set_by = step + 1, lease_s, set_by
        self.wake()

    def commands(self) -> dict[str, Callable[[Command], Prepared]]:
        """Return how to prepare each command of the gate, by its action."""
        return {
            "pause": self._prepare_pause,
            "resume": self._prepare_resume,
            "step_once": self._prepare_step_once,
        }

    def at_boundary(self, step: int) -> None:
        """Wait while the gate is closed."""
        if self._closes_at is not None and step >= self._closes_at:
            self._closes_at = None
            self.pause(lease_s=self._lease_s, set_by=self._set_by, reason="after one step")
        if self._is_closed:
            self._stand(step)
        self.rest_unless(lambda: self._is_closed or self._closes_at is not None)

    def close(self) -> None:
        """Let a waiting training go on: the scope is being detached."""
        self.resume()

    def _stand(self, step: int) -> None:
        self._step = step
        self._ends_s = time.monotonic() + self._lease_s
        self._note("pause", f"paused before step {step} by {self._set_by}{self._because()}")
        self._announce()
        try:
            self._turns.hold(step, self._is_over)
        finally:
            self._is_closed, self._step, self._reason = False, None, ""
            self._announce()
        self._note("resume", f"goes on with step {step}")

    def _is_over(self) -> bool:
        if not self._is_closed:
            return True
        late_s = time.monotonic() - self._ends_s
        if late_s < 0:
            return False
        if self._is_alone or late_s > _GRACE_S:
            self._note("pause.lease", f"the lease of {self._lease_s:g} s has ended: training goes on")
            return True
        if self._is_lead and not self._has_asked:
            self._has_asked = True
            self._ask_to_resume()
        return False

    def _because(self) -> str:
        return f": {self._reason}" if self._reason else ""

    def _prepare_pause(self, command: Command) -> Prepared:
        lease_s = check_lease(command.lease_s)

        def apply(turn: QueuedCommand) -> None:
            self.pause(lease_s=lease_s, set_by=command.set_by or command.peer, reason=command.condition)
            turn.done(turn.step)

        return apply

    def _prepare_resume(self, command: Command) -> Prepared:  # noqa: ARG002 - one shape for all
        def apply(turn: QueuedCommand) -> None:
            self.resume()
            turn.done(turn.step)

        return apply

    def _prepare_step_once(self, command: Command) -> Prepared:
        lease_s = check_lease(command.lease_s)

        def apply(turn: QueuedCommand) -> None:
            self.step_once(turn.step, lease_s=lease_s, set_by=command.set_by or command.peer)
            turn.done(turn.step)

        return apply
