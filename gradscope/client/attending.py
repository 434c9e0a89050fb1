"""`Attending`: what a client does beside interventions: pauses, breakpoints, focus, captures, undo."""

import os
from abc import abstractmethod
from concurrent.futures import Future

from gradscope.client.captured_tensors import CapturedArray, Incoming, array_of
from gradscope.client.interventions import Intervening
from gradscope.errors import NotMeasuredError
from gradscope.protocol import Ack, BreakpointState, Command, Interventions, PauseState

__all__ = ["Attending"]

_TIMEOUT_S = 10.0


class Attending(Intervening):
    """Each command returns the Ack once it is in force, or raises as those of `Controls` do."""

    def pause(self, *, lease_s: float | None = None, timeout_s: float = _TIMEOUT_S) -> Ack:
        """Pause the training at the next step boundary: for 60 s, or `lease_s`, 300 at most.

        Pausing again renews it. The Ack's step is the one that is held.
        """
        return self._answer(self.submit("pause", lease_s=lease_s), timeout_s)

    def resume(self, *, timeout_s: float = _TIMEOUT_S) -> Ack:
        """Let the training go on; the Ack's step is the one that it goes on with."""
        return self._answer(self.submit("resume"), timeout_s)

    def step_once(self, *, lease_s: float | None = None, timeout_s: float = _TIMEOUT_S) -> Ack:
        """Let one step run, and pause before the next; return when it stands there.

        The Ack's step is the one that has run.
        """
        ack = self._answer(self.submit("step_once", lease_s=lease_s), timeout_s)
        ran = ack.step
        if ran is not None:
            self._await_pause(ran + 1, timeout_s)
        return ack

    def measure_now(self, *, timeout_s: float = _TIMEOUT_S) -> Ack:
        """Have memory and time measured in the next step, whatever it costs; the Ack names the step."""
        return self._answer(self.submit("measure"), timeout_s)

    def focus(self, *layers: str, timeout_s: float = _TIMEOUT_S) -> Ack:
        """Have these layers measured in steps between the observed ones; none of them: no longer.

        They take the place of those that this client named before; at most 16, by name or pattern, and
        the Ack has their names. `focus_steps` iterates over the result. It ends with this client. Refused for a
        compiled model.
        """
        return self._answer(self.submit("focus", layers=layers), timeout_s)

    def paused(self, timeout_s: float = 5.0) -> PauseState | None:
        """Return where the training stands, and how long the lease lasts; None while it runs."""
        state = self._state(timeout_s)
        return state.pause if state else None

    def breakpoint(
        self, condition: str, *, lease_s: float | None = None, timeout_s: float = _TIMEOUT_S
    ) -> str:
        """Pause the training when a condition becomes true, as `loss > 10`; return its id."""
        future = self.submit("break", condition=condition, lease_s=lease_s)
        return self._answer(future, timeout_s).id

    def remove_breakpoint(self, id: str = "", *, timeout_s: float = _TIMEOUT_S) -> Ack:
        """Remove a breakpoint; all of them without an id."""
        return self._answer(self.submit("unbreak", target=id), timeout_s)

    def breakpoints(self, timeout_s: float = 5.0) -> tuple[BreakpointState, ...]:
        """Return the breakpoints that are set."""
        state = self._state(timeout_s)
        return state.breakpoints if state else ()

    def capture(
        self, layers: str, what: str = "activation", *, timeout_s: float = _TIMEOUT_S
    ) -> list[CapturedArray]:
        """Return tensors of layers as the next step computes them; of one above 16 MB, the first part.

        `what` is "activation", "gradient" or "param_grad". Raises NotMeasuredError, with the reason,
        where the step has left none.
        """
        self._ensure_watched()
        command, future = self._submit_capture(layers, what)
        try:
            self._answer(future, timeout_s)
            messages = self._incoming().take(command, timeout_s)
        finally:
            self._incoming().forget(command)
        if not messages[0].count:
            raise NotMeasuredError(messages[0].note)
        return [array_of(message) for message in messages]

    def undo(self, *, timeout_s: float = _TIMEOUT_S) -> Ack:
        """Remove all interventions, and put the state of before the first of them back.

        Requires a snapshot: the script must call `scope.keep_snapshot()`.
        """
        return self._answer(self.submit("undo"), timeout_s)

    # What a client provides.

    @abstractmethod
    def _state(self, timeout_s: float) -> Interventions | None:
        """Return the newest state of the run's rank 0."""

    @abstractmethod
    def _await_pause(self, step: int, timeout_s: float) -> None:
        """Wait until the training stands before a step, or a later one."""

    @abstractmethod
    def _incoming(self) -> Incoming:
        """Return where captured tensors come in."""

    @abstractmethod
    def _ensure_watched(self) -> None:
        """Have the run's state come."""

    def _submit_capture(self, layers: str, what: str) -> tuple[bytes, "Future[Ack]"]:
        run, peer, set_by = self._sender()
        command = Command(
            id=os.urandom(16),
            run=run,
            peer=peer,
            set_by=set_by,
            action="capture",
            layers=(layers,),
            what=what,
        )
        self._incoming().expect(command.id)
        return command.id, self._ask(command)
