"""One active intervention: applied to tensors in the forward pass, or to gradients before the optimizer.

If it fails, the tensor stays unchanged, the intervention stops acting, and `on_failure` receives the
reason.
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
"""Returns the loss scale by which gradients are multiplied, or None."""


@dataclass(frozen=True, slots=True)
class _StepArguments:
    """The arguments and condition of one step. The autograd graph of that step keeps them for backward."""

    arguments: dict[str, Value]
    condition: Condition | None


class ActiveIntervention:
    """An action with its arguments and schedule. `begin` sets the arguments of a step.

    Random numbers are seeded with `seed` and differ between ranks. `on_failure(reason)` is called once,
    from any thread.
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
        self._current = _StepArguments(self._arguments, parse_condition(text) if text else None)
        self._rng = InterventionRng(seed, rank)
        self._on_failure = on_failure

    def begin(self, since: int, step: int) -> bool:
        """Begin a step. Return whether the intervention acts in it. `since`: its first step in force."""
        if self.failure or not acts_in(self._schedule, since, step):
            return False
        if self._schedule.ramp is not None:
            now = arguments_in(self._schedule, self._arguments, since, step)
            self._current = _StepArguments(now, self._current.condition)
        self._rng.begin(step)
        return True

    @property
    def is_joint(self) -> bool:
        """Whether the intervention transforms all gradients of a site as one vector."""
        return self.action.is_joint(self._current.arguments)

    def apply_forward(self, tensors: Sequence[Tensor], layer: str, unit: Unit) -> list[Tensor]:
        """Return a layer's tensors with the intervention applied, in the forward pass."""
        if self.failure:
            return list(tensors)
        try:
            changed = self._change_tensors(tensors, layer, unit, self._current)
        except Exception as error:  # noqa: BLE001 - a failed intervention must not stop training
            self._stop_after_error(error)
            return list(tensors)
        self.has_acted = True
        return changed

    def bypass(self, given: Tensor, output: Tensor) -> Tensor:
        """Return a layer's output whose gradient goes to the input `given` instead of through the layer."""
        if self.failure:
            return output
        try:
            passed = bypassed(given, output)
        except Exception as error:  # noqa: BLE001 - as above
            self._stop_after_error(error)
            return output
        self.has_acted = True
        return passed

    def apply_to_gradients(
        self, gradients: Sequence[Tensor], unit: Unit, *, is_shared: bool
    ) -> list[Tensor]:
        """Return the changed gradients. An unchanged gradient is returned as the same object.

        `is_shared`: all ranks hold the same gradients and must compute the same results.
        """
        changed = self._changed(gradients, unit, self._current, is_shared=is_shared)
        self.has_acted = True
        return changed

    def _change_tensors(
        self, tensors: Sequence[Tensor], layer: str, unit: Unit, now: _StepArguments
    ) -> list[Tensor]:
        if self.action.spec.what == "value":
            return [self._changed_activation(tensor, layer, now) for tensor in tensors]
        if self.is_joint and len(tensors) > 1:
            return change_gradients_together(tensors, lambda dys: self._changed(dys, unit, now))
        return [change_gradient(x, lambda dy: self._changed([dy], unit, now)[0]) for x in tensors]

    def _changed_activation(self, x: Tensor, layer: str, now: _StepArguments) -> Tensor:
        changed = self.action.transform(
            x, now.arguments, lambda device: self._rng.generator_of_call(layer, device)
        )
        if now.condition is None:
            return changed
        return torch.where(now.condition.holds([x]), changed, x)

    def _changed(
        self, gradients: Sequence[Tensor], unit: Unit, now: _StepArguments, *, is_shared: bool = False
    ) -> list[Tensor]:
        if self.failure:
            return list(gradients)
        draw = partial(self._rng.generator_of_device, is_shared=is_shared)
        try:
            return self._unscaled(gradients, unit(), now, draw)
        except Exception as error:  # noqa: BLE001 - as above
            self._stop_after_error(error)
            return list(gradients)

    def _unscaled(
        self, gradients: Sequence[Tensor], scale: Tensor | None, now: _StepArguments, draw: GeneratorOf
    ) -> list[Tensor]:
        """Change gradients after dividing them by the loss scale, and scale them again.

        Computes in float32 or wider.
        """
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
        self, gradients: Sequence[Tensor], now: _StepArguments, draw: GeneratorOf
    ) -> list[Tensor]:
        jointly = self.action.transform_jointly
        if jointly is not None and self.is_joint:
            changed = jointly(gradients, now.arguments)
        else:
            changed = [self.action.transform(g, now.arguments, draw) for g in gradients]
        if now.condition is None:
            return changed
        holds = now.condition.holds(gradients)
        return [
            torch.where(holds.to(g.device), new, g) for g, new in zip(gradients, changed, strict=True)
        ]

    def fail(self, reason: str) -> None:
        """Stop acting, because of the given reason."""
        if self.failure:
            return
        self.failure = reason
        if self._on_failure is not None:
            self._on_failure(reason)

    def _stop_after_error(self, error: Exception) -> None:
        self.fail(str(error) if isinstance(error, UsageError) else f"{type(error).__name__}: {error}")
