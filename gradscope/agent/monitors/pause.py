"""The pause: training is held at a step boundary until it is resumed or the lease expires.

    running ──pause, breakpoint──▶ paused before step n ──resume, lease expired──▶ running
                                         └──step once──▶ step n runs, paused before n + 1

A lease is at most five minutes long. Pausing again renews it, so a viewer that dies cannot hold a
training for longer. During a pause, commands are applied and take effect.

With several ranks, all ranks pause and resume at the same step boundary. If only one rank has a reason
to pause or resume (a breakpoint, an expired lease), that rank requests a command for all ranks. Each
rank measures the lease with its own clock. The lead rank requests the resume; a rank that does not
receive a command resumes by itself ten seconds later. In that time, ranks that resumed earlier wait in
collectives.
"""

import time
from collections.abc import Callable
from typing import Final

from gradscope.agent.commands.dispatcher import CommandDispatcher
from gradscope.agent.commands.queue import Boundary, Prepared
from gradscope.agent.run.context import Hold, RunContext
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import UsageError
from gradscope.protocol import Command, PauseState

__all__ = ["LEASE_LIMIT_S", "LEASE_S", "Pause", "check_lease"]

LEASE_S: Final = 60.0
"""Default duration of a pause, in seconds."""

LEASE_LIMIT_S: Final = 300.0
"""Maximum lease, in seconds. It is shorter than the timeouts of collectives, which are 10 minutes or more."""

_GRACE_S: Final = 10.0


def check_lease(lease_s: object) -> float:
    """Return the lease in seconds. Raises UsageError unless it is greater than 0 and at most 300."""
    if lease_s is None:
        return LEASE_S
    is_number = isinstance(lease_s, int | float) and not isinstance(lease_s, bool)
    if not is_number or not 0 < float(lease_s) <= LEASE_LIMIT_S:  # type: ignore[arg-type]  # it is a number
        raise UsageError(
            f"expected a lease above 0 and of at most {LEASE_LIMIT_S:g} seconds, got {lease_s!r}; "
            "pause again to extend a pause"
        )
    return float(lease_s)  # type: ignore[arg-type]  # as above


class Pause(StepPlugin):
    """Holds the training between two steps. The duration of a pause does not count as step time."""

    name = "the pause"

    def __init__(self, run: RunContext, commands: CommandDispatcher) -> None:
        self._run = run
        self._commands = commands
        self._is_paused = False
        self._has_asked = False
        self._pause_at: int | None = None
        self._ends_s = 0.0
        self._lease_s = LEASE_S
        self._set_by = ""
        self._reason = ""
        self._step: int | None = None

    @property
    def state(self) -> PauseState | None:
        """The state of the pause; None while the training runs."""
        hold = self._run.hold
        return None if hold is None else hold.state()

    @property
    def is_paused(self) -> bool:
        """Whether the training is paused, or will be at the next step boundary."""
        return self._is_paused

    def pause(self, *, lease_s: float = LEASE_S, set_by: str = "script", reason: str = "") -> None:
        """Pause at the next step boundary, or renew the lease of the current pause."""
        self._lease_s, self._set_by, self._reason = lease_s, set_by, reason or self._reason
        self._ends_s = time.monotonic() + lease_s
        self._has_asked = False
        self._is_paused = True
        self._run.plan_again()
        if self._step is not None:
            self._publish()

    def pause_all(self, *, lease_s: float, set_by: str, reason: str, is_shared: bool) -> None:
        """Pause all ranks. `is_shared`: every rank makes this call; otherwise send a command to all ranks."""
        if is_shared or self._commands.consensus is None:
            self.pause(lease_s=lease_s, set_by=set_by, reason=reason)
        else:
            self._commands.request("pause", lease_s=lease_s, set_by=set_by, condition=reason)

    def resume(self) -> None:
        """Resume the training."""
        self._is_paused, self._pause_at, self._reason = False, None, ""
        self._commands.queue.recheck_hold()

    def step_once(self, step: int, *, lease_s: float, set_by: str) -> None:
        """Run `step`, and pause before the next."""
        self.resume()
        self._pause_at, self._lease_s, self._set_by = step + 1, lease_s, set_by
        self._run.plan_again()

    def commands(self) -> dict[str, Callable[[Command], Prepared]]:
        """Return a dict from each action to the function that validates its commands."""
        return {
            "pause": self._prepare_pause,
            "resume": self._prepare_resume,
            "step_once": self._prepare_step_once,
        }

    def next_active_step(self, step: int) -> int | None:
        """Return `step` during a pause, or the step before which one begins."""
        return step if self._is_paused else self._pause_at

    def at_boundary(self, step: int) -> None:
        """Wait while the training is paused."""
        if self._pause_at is not None and step >= self._pause_at:
            self._pause_at = None
            self.pause(lease_s=self._lease_s, set_by=self._set_by, reason="after one step")
        if self._is_paused:
            self._hold(step)

    def close(self) -> None:
        """Resume, because the scope is detached."""
        self.resume()

    def _hold(self, step: int) -> None:
        self._step = step
        self._ends_s = time.monotonic() + self._lease_s
        self._run.event(
            "info", "pause", f"paused before step {step} by {self._set_by}{self._reason_text()}"
        )
        self._publish()
        try:
            self._commands.queue.hold(step, self._may_resume)
        finally:
            self._is_paused, self._step, self._reason = False, None, ""
            self._publish()
        self._run.event("info", "resume", f"resumed with step {step}")

    def _publish(self) -> None:
        step, is_held = self._step, self._step is not None and self._is_paused
        self._run.hold = (
            Hold(step, self._ends_s, self._set_by, self._reason)
            if step is not None and is_held
            else None
        )
        self._run.publish_interventions()

    def _may_resume(self) -> bool:
        if not self._is_paused:
            return True
        late_s = time.monotonic() - self._ends_s
        if late_s < 0:
            return False
        if self._commands.consensus is None or late_s > _GRACE_S:
            self._run.event(
                "info", "pause.lease", f"the lease of {self._lease_s:g} s has expired; training resumes"
            )
            return True
        if self._commands.is_lead and not self._has_asked:
            self._has_asked = True
            self._commands.request("resume")
        return False

    def _reason_text(self) -> str:
        return f": {self._reason}" if self._reason else ""

    def _prepare_pause(self, command: Command) -> Prepared:
        lease_s = check_lease(command.lease_s)

        def apply(command_slot: Boundary) -> None:
            self.pause(lease_s=lease_s, set_by=command.set_by or command.peer, reason=command.condition)
            command_slot.done(command_slot.step)

        return apply

    def _prepare_resume(self, command: Command) -> Prepared:  # noqa: ARG002 - the signature of all command functions
        def apply(command_slot: Boundary) -> None:
            self.resume()
            command_slot.done(command_slot.step)

        return apply

    def _prepare_step_once(self, command: Command) -> Prepared:
        lease_s = check_lease(command.lease_s)

        def apply(command_slot: Boundary) -> None:
            self.step_once(command_slot.step, lease_s=lease_s, set_by=command.set_by or command.peer)
            command_slot.done(command_slot.step)

        return apply
