"""One intervention at work: laid over what flows forward, or called with gradients that are there.

Whatever fails here, the tensor goes on as it came, the intervention acts no more, and it is told why.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from gradscope.catalogue import Arguments, Value
from gradscope.errors import UsageError
from gradscope.functional.change import change_gradient, change_gradients_together
from gradscope.functional.straight_through import bypassed
from gradscope.intervene.actions import Action, GeneratorOf
from gradscope.intervene.condition import Condition, parse_condition
from gradscope.intervene.rng import InterventionRng
from gradscope.intervene.schedule import acts_in, arguments_in
from gradscope.protocol import Schedule

__all__ = ["ActiveIntervention", "Unit"]

Unit = Callable[[], Tensor | None]
"""What gradients are multiplied by where they arrive: a loss scale, or None."""


@dataclass(frozen=True, slots=True)
class _Moment:
    """What holds in one step. A graph of that step keeps it, however late it is run backward."""

    arguments: dict[str, Value]
    condition: Condition | None


class ActiveIntervention:
    """An action with its arguments and schedule. `begin` says what holds in a step.

    Its random numbers begin at `seed`, and with several ranks at another place on each.
    `on_failure(reason)` is called once, by whichever thread.
    """

    def __init__(
        self,
        action: Action,
        arguments: Arguments,
        *,
        schedule: Schedule | None = None,
        seed: int = 0,
        rank: int = 0,
        on_failure: Callable[[str], None] | None = None,
    ) -> None:
        self.action = action
        self.failure = ""
        self.has_acted = False
        self._arguments = dict(arguments)
        self._schedule = schedule or Schedule()
        text = self._schedule.condition
        self._moment = _Moment(self._arguments, parse_condition(text) if text else None)
        self._draws = InterventionRng(seed, rank)
        self._on_failure = on_failure

    def begin(self, since: int, step: int) -> bool:
        """Begin a step; return whether it acts in it. `since` is the first in which it is in force."""
        if self.failure or not acts_in(self._schedule, since, step):
            return False
        if self._schedule.ramp is not None:
            now = arguments_in(self._schedule, self._arguments, since, step)
            self._moment = _Moment(now, self._moment.condition)
        self._draws.begin(step)
        return True

    @property
    def is_joint(self) -> bool:
        """Whether it takes the gradients of a place as one."""
        return self.action.is_joint(self._moment.arguments)

    def apply_forward(self, tensors: Sequence[Tensor], layer: str, unit: Unit) -> list[Tensor]:
        """Return tensors of a layer to go on with, in forward."""
        if self.failure:
            return list(tensors)
        try:
            laid = self._over(tensors, layer, unit, self._moment)
        except Exception as error:  # noqa: BLE001 - a change that fails must not become the training's
            self._fail(error)
            return list(tensors)
        self.has_acted = True
        return laid

    def bypass(self, given: Tensor, output: Tensor) -> Tensor:
        """Return a layer's output whose gradient goes to what was given to the layer."""
        if self.failure:
            return output
        try:
            passed = bypassed(given, output)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(error)
            return output
        self.has_acted = True
        return passed

    def apply_to_gradients(
        self, gradients: Sequence[Tensor], unit: Unit, *, is_shared: bool
    ) -> list[Tensor]:
        """Return what becomes of gradients that are there; one that stays is the very same object.

        `is_shared`: all ranks hold the same ones, and must go on doing so.
        """
        changed = self._changed(gradients, unit, self._moment, is_shared=is_shared)
        self.has_acted = True
        return changed

    def _over(self, tensors: Sequence[Tensor], layer: str, unit: Unit, now: _Moment) -> list[Tensor]:
        if self.action.spec.what == "value":
            return [self._valued(tensor, layer, now) for tensor in tensors]
        if self.is_joint and len(tensors) > 1:
            return change_gradients_together(tensors, lambda dys: self._changed(dys, unit, now))
        return [change_gradient(x, lambda dy: self._changed([dy], unit, now)[0]) for x in tensors]

    def _valued(self, x: Tensor, layer: str, now: _Moment) -> Tensor:
        changed = self.action.transform(
            x, now.arguments, lambda device: self._draws.generator_of_call(layer, device)
        )
        if now.condition is None:
            return changed
        return torch.where(now.condition.holds([x]), changed, x)

    def _changed(
        self, gradients: Sequence[Tensor], unit: Unit, now: _Moment, *, is_shared: bool = False
    ) -> list[Tensor]:
        if self.failure:
            return list(gradients)
        draw = partial(self._draws.next_generator, is_shared=is_shared)
        try:
            return self._true(gradients, unit(), now, draw)
        except Exception as error:  # noqa: BLE001 - as above
            self._fail(error)
            return list(gradients)

    def _true(
        self, gradients: Sequence[Tensor], scale: Tensor | None, now: _Moment, draw: GeneratorOf
    ) -> list[Tensor]:
        """Change gradients as they are without the loss scale, in float32 or wider."""
        if scale is None or (self.action.spec.is_linear and now.condition is None):
            return self._conditional(gradients, now, draw)
        scales = [scale.to(g.device) for g in gradients]
        true = [
            g.to(torch.promote_types(g.dtype, torch.float32)) / s
            for g, s in zip(gradients, scales, strict=True)
        ]
        changed = self._conditional(true, now, draw)
        return [
            g if new is old else (new * s).to(g.dtype)
            for g, old, new, s in zip(gradients, true, changed, scales, strict=True)
        ]

    def _conditional(
        self, gradients: Sequence[Tensor], now: _Moment, draw: GeneratorOf
    ) -> list[Tensor]:
        changed = self._made(gradients, now.arguments, draw)
        if now.condition is None:
            return changed
        holds = now.condition.holds(gradients)
        return [
            torch.where(holds.to(g.device), new, g) for g, new in zip(gradients, changed, strict=True)
        ]

    def _made(
        self, gradients: Sequence[Tensor], arguments: Arguments, draw: GeneratorOf
    ) -> list[Tensor]:
        jointly = self.action.transform_jointly
        if jointly is not None and self.is_joint:
            return jointly(gradients, arguments)
        return [self.action.transform(g, arguments, draw) for g in gradients]

    def fail(self, reason: str) -> None:
        """Act no more, for a reason."""
        if self.failure:
            return
        self.failure = reason
        if self._on_failure is not None:
            self._on_failure(reason)

    def _fail(self, error: Exception) -> None:
        self.fail(str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}")
