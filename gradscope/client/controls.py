"""`Controls`: what a client can do to a run. One method for each intervention, built on `submit`."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Literal, TypeAlias, TypedDict, Unpack, cast, overload

from gradscope.errors import CommandTimeoutError, UsageError
from gradscope.protocol import Ack, Command

__all__ = ["Action", "Controls", "How", "Layers"]

_TIMEOUT_S = 10.0

Action: TypeAlias = Literal["install", "remove", "remove_all"]
Layers: TypeAlias = str | Sequence[str]


Now: TypeAlias = Literal[True]
Later: TypeAlias = Literal[False]
Answer: TypeAlias = Ack | Future[Ack]


class Ends(TypedDict, total=False):
    """Where an intervention acts, and when it ends.

    `site` is "output", "input" or "params". It ends `end_steps` steps or `end_s` seconds after it took
    effect, never when `is_kept`, and else 60 s after this client has vanished. `expect_revision`
    refuses it when the run's interventions have changed since.
    """

    site: str
    end_steps: int | None
    end_s: float | None
    is_kept: bool
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
        arguments: Mapping[str, float] | None = None,
        layers: Layers = (),
        site: str = "output",
        target: str = "",
        end_steps: int | None = None,
        end_s: float | None = None,
        is_kept: bool = False,
        expect_revision: int | None = None,
    ) -> Future[Ack]:
        """Send a command; return a Future of its Ack, which raises CommandRefusedError."""
        run, peer, set_by = self._sender()
        command = Command(
            id=os.urandom(16),
            run=run,
            peer=peer,
            set_by=set_by,
            action=action,
            intervention=intervention,
            arguments={name: float(value) for name, value in (arguments or {}).items()},
            layers=(layers,) if isinstance(layers, str) else tuple(layers),
            site=site,
            target=target,
            end_steps=end_steps,
            end_s=end_s,
            is_kept=is_kept,
            expect_revision=expect_revision,
        )
        if action == "install" and not any(command.layers):
            raise UsageError(
                "an intervention needs the name or pattern of at least one layer, got none"
            )
        return self._ask(command)

    @overload
    def reverse(
        self, layers: Layers, *, alpha: float = 1.0, wait: Now = ..., **how: Unpack[How]
    ) -> Ack: ...
    @overload
    def reverse(
        self, layers: Layers, *, alpha: float = 1.0, wait: Later, **how: Unpack[How]
    ) -> Future[Ack]: ...
    def reverse(
        self, layers: Layers, *, alpha: float = 1.0, wait: bool = True, **how: Unpack[How]
    ) -> Answer:
        """Turn the gradients of layers around, times `alpha`."""
        return self._install("reverse", layers, {"alpha": alpha}, wait, how)

    @overload
    def scale(self, layers: Layers, *, factor: float, wait: Now = ..., **how: Unpack[How]) -> Ack: ...
    @overload
    def scale(
        self, layers: Layers, *, factor: float, wait: Later, **how: Unpack[How]
    ) -> Future[Ack]: ...
    def scale(self, layers: Layers, *, factor: float, wait: bool = True, **how: Unpack[How]) -> Answer:
        """Multiply the gradients of layers by `factor`."""
        return self._install("scale", layers, {"factor": factor}, wait, how)

    @overload
    def clip(self, layers: Layers, *, max_norm: float, wait: Now = ..., **how: Unpack[How]) -> Ack: ...
    @overload
    def clip(
        self, layers: Layers, *, max_norm: float, wait: Later, **how: Unpack[How]
    ) -> Future[Ack]: ...
    def clip(self, layers: Layers, *, max_norm: float, wait: bool = True, **how: Unpack[How]) -> Answer:
        """Shrink the gradients of layers to a norm of at most `max_norm`."""
        return self._install("clip", layers, {"max_norm": max_norm}, wait, how)

    @overload
    def clamp(self, layers: Layers, *, limit: float, wait: Now = ..., **how: Unpack[How]) -> Ack: ...
    @overload
    def clamp(
        self, layers: Layers, *, limit: float, wait: Later, **how: Unpack[How]
    ) -> Future[Ack]: ...
    def clamp(self, layers: Layers, *, limit: float, wait: bool = True, **how: Unpack[How]) -> Answer:
        """Limit each element of the gradients of layers to ± `limit`."""
        return self._install("clamp", layers, {"limit": limit}, wait, how)

    @overload
    def stop(self, layers: Layers, *, wait: Now = ..., **how: Unpack[How]) -> Ack: ...
    @overload
    def stop(self, layers: Layers, *, wait: Later, **how: Unpack[How]) -> Future[Ack]: ...
    def stop(self, layers: Layers, *, wait: bool = True, **how: Unpack[How]) -> Answer:
        """Set the gradients of layers to zero."""
        return self._install("stop", layers, {}, wait, how)

    @overload
    def noise(
        self, layers: Layers, *, std: float, seed: int = 0, wait: Now = ..., **how: Unpack[How]
    ) -> Ack: ...
    @overload
    def noise(
        self, layers: Layers, *, std: float, seed: int = 0, wait: Later, **how: Unpack[How]
    ) -> Future[Ack]: ...
    def noise(
        self, layers: Layers, *, std: float, seed: int = 0, wait: bool = True, **how: Unpack[How]
    ) -> Answer:
        """Add normal noise of deviation `std` to the gradients of layers."""
        return self._install("noise", layers, {"std": std, "seed": seed}, wait, how)

    def remove(self, target: str, *, timeout_s: float = _TIMEOUT_S) -> Ack:
        """Remove the intervention of that id."""
        return self._answer(self.submit("remove", target=target), timeout_s)

    def remove_all(self, *, timeout_s: float = _TIMEOUT_S) -> Ack:
        """Remove all interventions of the run."""
        return self._answer(self.submit("remove_all"), timeout_s)

    def _install(
        self, name: str, layers: Layers, arguments: Mapping[str, float], wait: bool, how: How
    ) -> Answer:
        ends = cast("Ends", {key: value for key, value in how.items() if key != "timeout_s"})
        future = self.submit("install", intervention=name, layers=layers, arguments=arguments, **ends)
        return self._answer(future, how.get("timeout_s", _TIMEOUT_S)) if wait else future

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
