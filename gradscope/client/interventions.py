"""`Intervening`: what a client can do to the gradients of a run. One method for each usual one."""

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Literal, TypeAlias, Unpack, overload

from gradscope.client.controls import TIMEOUT_S, Controls, How, Layers
from gradscope.errors import UsageError
from gradscope.protocol import Ack, Schedule, parse_ramp

__all__ = ["Intervening"]

Now: TypeAlias = Literal[True]
Later: TypeAlias = Literal[False]
Answer: TypeAlias = Ack | Future[Ack]


class Intervening(Controls):
    """Each returns the Ack once it is in force, or with `wait=False` a Future of it.

    `layers` is a pattern or several. Raises UsageError for a time that cannot be, CommandRefusedError
    with the reason when the hub or the training process says no, and CommandTimeoutError when no step
    boundary came in time.
    """

    @overload
    def intervene(
        self,
        layers: Layers,
        name: str,
        *,
        arguments: Mapping[str, float | str] | None = None,
        wait: Now = ...,
        **how: Unpack[How],
    ) -> Ack: ...
    @overload
    def intervene(
        self,
        layers: Layers,
        name: str,
        *,
        arguments: Mapping[str, float | str] | None = None,
        wait: Later,
        **how: Unpack[How],
    ) -> Future[Ack]: ...
    def intervene(
        self,
        layers: Layers,
        name: str,
        *,
        arguments: Mapping[str, float | str] | None = None,
        wait: bool = True,
        **how: Unpack[How],
    ) -> Answer:
        """Install the intervention of that name: gradscope's, or one that the script has registered."""
        return self._install(name, layers, arguments or {}, wait, how)

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
    def clip(
        self,
        layers: Layers,
        *,
        max_norm: float,
        per: str = "tensor",
        wait: Now = ...,
        **how: Unpack[How],
    ) -> Ack: ...
    @overload
    def clip(
        self,
        layers: Layers,
        *,
        max_norm: float,
        per: str = "tensor",
        wait: Later,
        **how: Unpack[How],
    ) -> Future[Ack]: ...
    def clip(
        self,
        layers: Layers,
        *,
        max_norm: float,
        per: str = "tensor",
        wait: bool = True,
        **how: Unpack[How],
    ) -> Answer:
        """Shrink the gradients of layers to a norm of at most `max_norm`.

        `per`: each "tensor" by itself, those of a "layer" as one, or at the parameters "all" as one.
        """
        return self._install("clip", layers, {"max_norm": max_norm, "per": per}, wait, how)

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
        self,
        layers: Layers,
        *,
        std: float,
        seed: int = 0,
        relative: bool = False,
        wait: Now = ...,
        **how: Unpack[How],
    ) -> Ack: ...
    @overload
    def noise(
        self,
        layers: Layers,
        *,
        std: float,
        seed: int = 0,
        relative: bool = False,
        wait: Later,
        **how: Unpack[How],
    ) -> Future[Ack]: ...
    def noise(
        self,
        layers: Layers,
        *,
        std: float,
        seed: int = 0,
        relative: bool = False,
        wait: bool = True,
        **how: Unpack[How],
    ) -> Answer:
        """Add normal noise of deviation `std` to the gradients; `relative`: as a part of their own."""
        given = {"std": std, "seed": seed, "relative": relative}
        return self._install("noise", layers, given, wait, how)

    def _install(
        self,
        name: str,
        layers: Layers,
        arguments: Mapping[str, float | str],
        wait: bool,
        how: How,
    ) -> Answer:
        future = self.submit(
            "install",
            intervention=name,
            layers=layers,
            arguments=arguments,
            site=how.get("site", "output"),
            end_steps=how.get("end_steps"),
            end_s=how.get("end_s"),
            is_kept=how.get("is_kept", False),
            expect_revision=how.get("expect_revision"),
            schedule=_schedule_of(how),
        )
        return self._answer(future, how.get("timeout_s", TIMEOUT_S)) if wait else future


def _schedule_of(how: How) -> Schedule | None:
    ramp = how.get("ramp")
    for name in ("start_step", "end_step"):
        step = how.get(name)
        if step is not None and (not isinstance(step, int) or step < 0):
            raise UsageError(f"{name} must be a whole number of at least 0, got {step!r}")
    every = how.get("every_steps", 1)
    if not isinstance(every, int) or every < 1:
        raise UsageError(f"every_steps must be a whole number of at least 1, got {every!r}")
    schedule = Schedule(
        start_step=how.get("start_step"),
        end_step=how.get("end_step"),
        every_steps=every,
        ramp=parse_ramp(ramp) if isinstance(ramp, str) else ramp,
        condition=how.get("when", ""),
    )
    return None if schedule == Schedule() else schedule
