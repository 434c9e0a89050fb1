"""`Controls`: how a client changes a run: commands by `submit`, and their answers."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Literal, TypeAlias, TypedDict

from gradscope.errors import CommandTimeoutError, UsageError
from gradscope.protocol import Ack, Command, Ramp, Schedule

__all__ = ["TIMEOUT_S", "Action", "Controls", "How", "Layers"]

TIMEOUT_S = 10.0

Action: TypeAlias = Literal[
    "install",
    "remove",
    "remove_all",
    "pause",
    "resume",
    "step_once",
    "break",
    "unbreak",
    "capture",
    "undo",
    "measure",
    "focus",
]
Layers: TypeAlias = str | Sequence[str]


class Ends(TypedDict, total=False):
    """Where an intervention acts, when, and when it ends.

    `site` is "output", "input" or "params". It ends `end_steps` steps or `end_s` seconds after it took
    effect, never when `is_kept`, and else 60 s after this client has gone. It acts from `start_step`
    on, no more in `end_step`, in every `every_steps`-th step, and where `when` holds of what arrives
    ("norm > 10"); `ramp` is "ARGUMENT=FROM:TO:STEPS" ("alpha=0:1:1000:dann"). `expect_revision`
    refuses it when the run's interventions have changed since.
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


class How(Ends, total=False):
    """The same, and how long the answer is waited for: 10 s unless given."""

    timeout_s: float


class Controls(ABC):
    """The commands. Each returns the Ack once it is in force, or with `wait=False` a Future of it.

    `layers` is a pattern or several. Raises CommandRefusedError with the reason when the hub or the
    training process says no, and CommandTimeoutError when no step boundary came in time.
    """

    def submit(
        self,
        action: Action,
        *,
        intervention: str = "",
        arguments: Mapping[str, float | str] | None = None,
        layers: Layers = (),
        site: str = "output",
        target: str = "",
        end_steps: int | None = None,
        end_s: float | None = None,
        is_kept: bool = False,
        expect_revision: int | None = None,
        schedule: Schedule | None = None,
        lease_s: float | None = None,
        condition: str = "",
    ) -> Future[Ack]:
        """Send a command; return a Future of its Ack, which raises CommandRefusedError."""
        run, peer, set_by = self._sender()
        given = arguments or {}
        command = Command(
            id=os.urandom(16),
            run=run,
            peer=peer,
            set_by=set_by,
            action=action,
            intervention=intervention,
            arguments={n: float(v) for n, v in given.items() if not isinstance(v, str)},
            choices={n: v for n, v in given.items() if isinstance(v, str)},
            schedule=schedule,
            layers=(layers,) if isinstance(layers, str) else tuple(layers),
            site=site,
            target=target,
            end_steps=end_steps,
            end_s=end_s,
            is_kept=is_kept,
            expect_revision=expect_revision,
            lease_s=lease_s,
            condition=condition,
        )
        if action == "install" and not any(command.layers):
            raise UsageError(
                "an intervention needs the name or pattern of at least one layer, got none"
            )
        return self._ask(command)

    def remove(self, target: str, *, timeout_s: float = TIMEOUT_S) -> Ack:
        """Remove the intervention of that id."""
        return self._answer(self.submit("remove", target=target), timeout_s)

    def remove_all(self, *, timeout_s: float = TIMEOUT_S) -> Ack:
        """Remove all interventions of the run."""
        return self._answer(self.submit("remove_all"), timeout_s)

    def _answer(self, future: Future[Ack], timeout_s: float) -> Ack:
        try:
            return future.result(timeout_s)
        except TimeoutError:
            self._forget(future)
            raise CommandTimeoutError(self._why_no_answer(timeout_s)) from None

    # What a client provides.

    @abstractmethod
    def _sender(self) -> tuple[str, str, str]:
        """Return the run, this client's peer id, and a name for people."""

    @abstractmethod
    def _ask(self, command: Command) -> Future[Ack]:
        """Send a command; the answer comes into the future."""

    @abstractmethod
    def _forget(self, future: Future[Ack]) -> None:
        """Wait no longer for an answer."""

    @abstractmethod
    def _why_no_answer(self, timeout_s: float) -> str:
        """Return what to tell a person who has waited in vain."""
