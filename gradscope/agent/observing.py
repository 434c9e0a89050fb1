"""What the hooks call while the training computes: timed, and keeping what goes wrong from it."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from gradscope.agent.faults import Faults
from gradscope.agent.forward_plan import Slot
from gradscope.agent.idle import IdleWatch
from gradscope.agent.loss_scale import LossScale
from gradscope.agent.overlay import Overlay
from gradscope.agent.settings import Settings
from gradscope.agent.watched import WatchedModel
from gradscope.hooks import CompiledHook, LayerInfo, Seen, hidden_from_modes, is_plain
from gradscope.observe import See, Token

__all__ = ["Observing"]

_SKIPPED = "the GradScaler skipped an iteration before step {step}: its gradients were not finite"


class Observing:
    """Measures in the steps in which it `is_on`; lays interventions over outputs in all.

    `watched` is the model. `inside_s` is the time spent here in the step in progress. After a failure
    it is never on again; interventions stay in force.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        *,
        overlay: Overlay,
        idle: IdleWatch,
        scale: LossScale,
        faults: Faults,
        on_layers: Callable[[Sequence[LayerInfo], int], None],
        look_again: Callable[[], object],
    ) -> None:
        self._overlay = overlay
        self._idle = idle
        self._faults = faults
        self._look_again = look_again
        self._is_able = True
        self.is_on = False
        self.step = settings.start_step
        self.inside_s = 0.0
        self.compiled = CompiledHook(self.on_compiled)
        self.watched = WatchedModel(
            model,
            settings,
            compiled=self.compiled,
            loss_scale=scale,
            on_layers=on_layers,
            on_gradient=self.on_gradient,
            give_up=lambda error: self.give_up("observing in C", error),
        )

    def begin(self, step: int, *, is_due: bool) -> None:
        """Begin a step."""
        self.step = step
        self.is_on = self._is_able and is_due
        self.watched.begin(is_observed=self.is_on)

    @property
    def see(self) -> See | None:
        """What deals with most outputs in C; None where interventions, or nothing, are to be done."""
        is_free = self.is_on and not self.watched.plan.is_changed
        return self.watched.measurement.see if is_free else None

    def count_in(self) -> None:
        """Count in what was done in C."""
        spent_s, seen = self.watched.measurement.take()
        self.inside_s += spent_s
        if seen:
            self._idle.note_seen()

    def on_forward(self, slot: Slot, output: Any) -> Any:  # Any: whatever a module returns
        """Measure what a layer returned, and lay over it what acts there."""
        began_s = time.perf_counter()
        self._idle.note_seen()
        if self.is_on:
            try:
                if is_plain(output):
                    self._observe(slot, output)
                else:
                    with hidden_from_modes():
                        self._observe(slot, output)
            except Exception as error:  # noqa: BLE001 - ours must not become the training's
                self.give_up("observing activations", error)
        is_changed = bool(slot.chain or slot.calls)
        if is_changed:
            see_arriving = self._see_arriving if self.is_on else None
            output = self._overlay.over_output(slot, output, see_arriving)
        self.inside_s += time.perf_counter() - began_s
        return output if is_changed else None

    def on_compiled(self, layer: int, what: Seen, path: str, tensor: torch.Tensor) -> None:
        """Measure what a compiled graph has shown."""
        if self.is_on:
            self._look_again()
            self._idle.note_seen()
            self.timed(
                "observing a compiled model",
                lambda: self.watched.measurement.see_compiled(layer, what, path, tensor),
            )

    def on_gradient(self, token: Token, gradient: torch.Tensor) -> None:
        """Measure a gradient at an output."""
        began_s = time.perf_counter()
        try:
            if is_plain(gradient):
                self.watched.measurement.see_gradient(token, gradient)
            else:
                with hidden_from_modes():
                    self.watched.measurement.see_gradient(token, gradient)
        except Exception as error:  # noqa: BLE001 - as above
            self.give_up("observing gradients", error)
        self.inside_s += time.perf_counter() - began_s

    def timed(self, part: str, work: Callable[[], object]) -> None:
        """Do a part of the work, guarded, and count in its time."""
        began_s = time.perf_counter()
        self.guarded(part, work)
        self.inside_s += time.perf_counter() - began_s

    def guarded(self, part: str, work: Callable[[], object]) -> None:
        """Do a part of the work out of sight of the user's modes; where it fails, give up observing."""
        try:
            with hidden_from_modes():
                work()
        except Exception as error:  # noqa: BLE001 - ours must not become the training's
            self.give_up(part, error)

    def give_up(self, part: str, error: Exception) -> None:
        """Say what failed, and observe no longer."""
        self._is_able = self.is_on = False
        self.watched.measurement.abandon()
        self._faults.report(part, error, "Observing is switched off; interventions stay in force.")

    def _observe(self, slot: Slot, output: object) -> None:
        if self.watched.measurement.see_output(slot.layer, output):
            self._faults.tell("iteration-skipped", _SKIPPED.format(step=self.step))

    def _see_arriving(self, slot: Slot, tensor: torch.Tensor) -> None:
        self.watched.measurement.see_arriving(slot.layer, tensor)
