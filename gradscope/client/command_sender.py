"""`CommandSender`: builds the commands of a client, sends them, and waits for their answers."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeAlias, TypedDict

import msgspec

from gradscope.client.captured_tensors import CapturedArray, array_of
from gradscope.client.session import Session
from gradscope.errors import CommandTimeoutError, LinkError, NotMeasuredError, UsageError
from gradscope.names import check_options
from gradscope.protocol import Ack, Command, Ramp, Schedule, make_schedule
from gradscope.transport import LinkState

__all__ = [
    "TIMEOUT_S",
    "CommandSender",
    "How",
    "Layers",
    "install_command",
    "link_in_words",
]

TIMEOUT_S = 10.0

Layers: TypeAlias = str | Sequence[str]
"""A layer name or pattern, or several."""


class How(TypedDict, total=False):
    """Where and when an intervention acts, when it ends, and how long the client waits.

    site: "output" (default), "input" or "params".
    end_steps, end_s: remove it this many steps or seconds after it took effect.
    is_kept: keep it until it is removed. By default it ends 60 s after this client has closed.
    start_step, end_step: the first step in which it acts, and the first in which it no longer acts.
    every_steps: act in every N-th step only.
    ramp: "ARGUMENT=FROM:TO:STEPS", such as "alpha=0:1:1000"; with ":dann" for the schedule of DANN.
    when: a condition on the tensor before the intervention, such as "norm > 10".
    expect_revision: refuse the command if the run's interventions have changed since that revision.
    timeout_s: how long to wait for the answer; 10 s by default.
    """

    site: str
    end_steps: int | None
    end_s: float | None
    is_kept: bool
    start_step: int | None
    end_step: int | None
    every_steps: int
    ramp: Ramp | str | None
    when: str
    expect_revision: int | None
    timeout_s: float


def install_command(
    layers: Layers, name: str, arguments: Mapping[str, float | str], how: How
) -> Command:
    """Return an `install` command. Raises UsageError for an invalid schedule, or if there is no layer."""
    check_options(how, How.__annotations__, name)
    schedule = make_schedule(
        start_step=how.get("start_step"),
        end_step=how.get("end_step"),
        every_steps=how.get("every_steps", 1),
        ramp=how.get("ramp"),
        when=how.get("when", ""),
    )
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    if not any(names):
        raise UsageError("an intervention needs the name or pattern of at least one layer, got none")
    return Command(
        action="install",
        intervention=name,
        layers=names,
        arguments={n: float(v) for n, v in arguments.items() if not isinstance(v, str)},
        choices={n: v for n, v in arguments.items() if isinstance(v, str)},
        site=how.get("site", "output"),
        end_steps=how.get("end_steps"),
        end_s=how.get("end_s"),
        is_kept=how.get("is_kept", False),
        expect_revision=how.get("expect_revision"),
        schedule=None if schedule == Schedule() else schedule,
    )


def link_in_words(state: LinkState) -> str:
    """Return the phase of a link and its reason, as a sentence."""
    return f"the link is {state.phase}" + (f": {state.reason}" if state.reason else "")


class CommandSender:
    """Sends commands over a session. `run` returns the run that receives them.

    A command is sent again if the link was broken. It is executed only once, because its id stays the
    same.
    """

    def __init__(self, session: Session, run: Callable[[], str], peer: str, set_by: str) -> None:
        self._session = session
        self._run = run
        self._peer = peer
        self._set_by = set_by

    def send(self, command: Command) -> Future[Ack]:
        """Send a command after filling in its id, run and sender; it may raise CommandRefusedError."""
        return self._session.ask(self._addressed(command))

    def ask(self, command: Command, timeout_s: float = TIMEOUT_S) -> Ack:
        """Send a command and wait until it is in force. Raises CommandTimeoutError or CommandRefusedError."""
        return self._wait(self.send(command), timeout_s)

    def step_once(self, timeout_s: float, lease_s: float | None) -> Ack:
        """Run one step. Return when training is paused before the next one."""
        ack = self.ask(Command(action="step_once", lease_s=lease_s), timeout_s)
        next_step = 0 if ack.step is None else ack.step + 1
        known = self._session.known

        def is_paused() -> bool | None:
            states = known.interventions
            state = states[min(states)] if states else None
            return True if state and state.pause and state.pause.step >= next_step else None

        if ack.step is not None and known.wait(is_paused, timeout_s) is None:
            raise CommandTimeoutError(self._no_answer(timeout_s))
        return ack

    def capture(self, layers: str, what: str, timeout_s: float) -> list[CapturedArray]:
        """Return tensors of the next step. Raises NotMeasuredError, with the reason, if there are none."""
        captured = self._session.captured
        command = self._addressed(Command(action="capture", layers=(layers,), what=what))
        tensors = captured.expect(command.id)
        try:
            self._wait(self._session.ask(command), timeout_s)
            messages = tensors.result(timeout_s)
        except TimeoutError:
            raise LinkError(f"the captured tensors did not arrive in {timeout_s:g} s") from None
        finally:
            captured.forget(command.id)
        if not messages[0].count:
            raise NotMeasuredError(messages[0].note)
        return [array_of(message) for message in messages]

    def _addressed(self, command: Command) -> Command:
        return msgspec.structs.replace(
            command, id=os.urandom(16), run=self._run(), peer=self._peer, set_by=self._set_by
        )

    def _wait(self, future: Future[Ack], timeout_s: float) -> Ack:
        try:
            return future.result(timeout_s)
        except TimeoutError:
            self._session.forget(future)
            raise CommandTimeoutError(self._no_answer(timeout_s)) from None

    def _no_answer(self, timeout_s: float) -> str:
        run = self._run()
        ranks = [info for info in self._session.known.runs if info.run == run and info.rank == 0]
        where = f" (last known step: {ranks[0].step})" if ranks else ""
        return (
            f"run {run!r}{where} has not answered in {timeout_s:g} s: commands wait for the end of a step; "
            f"it may still take effect later. {link_in_words(self._session.state)}"
        )
