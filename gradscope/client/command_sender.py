"""`CommandSender`: builds the commands of a client, sends them, and waits for their answers."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import TypeAlias, TypedDict, Unpack

import msgspec

from gradscope.catalogue import CommandName
from gradscope.client.captured_tensors import CapturedArray, array_of
from gradscope.client.session import Session
from gradscope.errors import CommandTimeoutError, NotMeasuredError, UsageError
from gradscope.protocol import Ack, Command, Ramp, Schedule, make_schedule
from gradscope.transport import LinkState

__all__ = [
    "TIMEOUT_S",
    "CommandFields",
    "CommandSender",
    "How",
    "Layers",
    "install_fields",
    "link_in_words",
]

TIMEOUT_S = 10.0

Layers: TypeAlias = str | Sequence[str]
"""A layer name or pattern, or several."""


class CommandFields(TypedDict, total=False):
    """The fields of a `Command` that depend on the action; see `gradscope.protocol.Command`."""

    intervention: str
    arguments: Mapping[str, float | str] | None
    layers: Layers
    site: str
    target: str
    end_steps: int | None
    end_s: float | None
    is_kept: bool
    expect_revision: int | None
    schedule: Schedule | None
    lease_s: float | None
    condition: str
    what: str


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


def install_fields(
    layers: Layers, name: str, arguments: Mapping[str, float | str], how: How
) -> CommandFields:
    """Return the fields of an `install` command. Raises UsageError for an invalid schedule."""
    schedule = make_schedule(
        start_step=how.get("start_step"),
        end_step=how.get("end_step"),
        every_steps=how.get("every_steps", 1),
        ramp=how.get("ramp"),
        when=how.get("when", ""),
    )
    return {
        "intervention": name,
        "layers": layers,
        "arguments": arguments,
        "site": how.get("site", "output"),
        "end_steps": how.get("end_steps"),
        "end_s": how.get("end_s"),
        "is_kept": how.get("is_kept", False),
        "expect_revision": how.get("expect_revision"),
        "schedule": None if schedule == Schedule() else schedule,
    }


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

    def submit(self, action: CommandName, fields: CommandFields) -> Future[Ack]:
        """Send a command. Return a Future of the Ack; it may raise CommandRefusedError."""
        return self._session.ask(self._command(action, fields))

    def send(self, command: Command) -> Future[Ack]:
        """Send a command as `submit` does, after filling in its id, run and sender."""
        id = os.urandom(16)
        addressed = msgspec.structs.replace(
            command, id=id, run=self._run(), peer=self._peer, set_by=self._set_by
        )
        return self._session.ask(addressed)

    def ask(self, action: CommandName, timeout_s: float, **fields: Unpack[CommandFields]) -> Ack:
        """Send a command and wait until it is in force. Raises CommandTimeoutError or CommandRefusedError."""
        return self._wait(self.submit(action, fields), timeout_s)

    def step_once(self, timeout_s: float, lease_s: float | None) -> Ack:
        """Run one step. Return when training is paused before the next one."""
        ack = self.ask("step_once", timeout_s, lease_s=lease_s)
        next_step = 0 if ack.step is None else ack.step + 1
        known = self._session.known

        def is_paused() -> bool | None:
            state = known.interventions.get(0)
            return True if state and state.pause and state.pause.step >= next_step else None

        if ack.step is not None and known.wait(is_paused, timeout_s) is None:
            raise CommandTimeoutError(self._no_answer(timeout_s))
        return ack

    def capture(self, layers: str, what: str, timeout_s: float) -> list[CapturedArray]:
        """Return tensors of the next step. Raises NotMeasuredError, with the reason, if there are none."""
        captured = self._session.captured
        command = self._command("capture", {"layers": layers, "what": what})
        captured.expect(command.id)
        try:
            self._wait(self._session.ask(command), timeout_s)
            messages = captured.take(command.id, timeout_s)
        finally:
            captured.forget(command.id)
        if not messages[0].count:
            raise NotMeasuredError(messages[0].note)
        return [array_of(message) for message in messages]

    def _command(self, action: CommandName, fields: CommandFields) -> Command:
        layers, arguments = fields.get("layers", ()), fields.get("arguments") or {}
        others = {n: v for n, v in fields.items() if n not in ("layers", "arguments")}
        command = Command(
            id=os.urandom(16),
            run=self._run(),
            peer=self._peer,
            set_by=self._set_by,
            action=action,
            arguments={n: float(v) for n, v in arguments.items() if not isinstance(v, str)},
            choices={n: v for n, v in arguments.items() if isinstance(v, str)},
            layers=(layers,) if isinstance(layers, str) else tuple(layers),
            **others,  # type: ignore[arg-type]  # the other fields of a Command, by name
        )
        if action == "install" and not any(command.layers):
            raise UsageError(
                "an intervention needs the name or pattern of at least one layer, got none"
            )
        return command

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
