"""What the hooks call while the training computes: timed, and keeping what goes wrong from it."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from gradscope.agent.interventions.apply_forward import ForwardInterventions
from gradscope.agent.interventions.no_effect_warnings import NoEffectWarnings
from gradscope.agent.observation.layer_slots import Slot
from gradscope.agent.observation.loss_scale import LossScale
from gradscope.agent.observation.measurement import Measurement
from gradscope.agent.observation.model_tracker import ModelTracker
from gradscope.agent.run.faults import Faults
from gradscope.agent.run.settings import Settings
from gradscope.hooks import CompiledHook, LayerInfo, Seen, hidden_from_modes, is_plain
from gradscope.observe import LayerSlot, RecordOutput, Token, failed_pass

__all__ = ["HookCallbacks"]

_SKIPPED = "the GradScaler skipped an iteration before step {step}: its gradients were not finite"


class HookCallbacks:
    """Measures in the steps in which it `is_on`; lays interventions over outputs in all.

    In a focus step only the layers in the focus are measured. `watched` is the model. `inside_s` is the
    time spent here in the step in progress. After a failure it is never on again; interventions stay in
    force.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: Settings,
        *,
        overlay: ForwardInterventions,
        idle: NoEffectWarnings,
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
        self.is_on = self.is_focus = False
        self.step = settings.start_step
        self.inside_s = 0.0
        self._has_told_of_pass = False
        self.compiled = CompiledHook(self.on_compiled)
        self.watched = ModelTracker(
            model,
            settings,
            compiled=self.compiled,
            loss_scale=scale,
            on_layers=on_layers,
            on_gradient=self.on_gradient,
            give_up=lambda error: self.give_up("observing in C", error),
        )

    def begin(self, step: int, *, is_due: bool, is_focus_due: bool = False) -> None:
        """Begin a step: observed as a whole where it `is_due`, else perhaps a focus step."""
        self.step = step
        is_focus = is_focus_due and not is_due and self.watched.focus_measurement is not None
        self.is_on = self._is_able and (is_due or is_focus)
        self.is_focus = self.is_on and is_focus
        self.watched.begin(is_observed=self.is_whole)

    @property
    def is_whole(self) -> bool:
        """Whether the step in progress is observed, all layers of it."""
        return self.is_on and not self.is_focus

    @property
    def measurement(self) -> Measurement:
        """What measures the step in progress."""
        focus = self.watched.focus_measurement if self.is_focus else None
        return self.watched.measurement if focus is None else focus

    @property
    def see(self) -> RecordOutput | None:
        """What deals with most outputs in C; None where interventions, or nothing, are to be done."""
        is_free = self.is_whole and not self.watched.plan.is_changed
        return self.watched.measurement.see if is_free else None

    def count_in(self) -> None:
        """Count in what was done in C, and tell where the pass on a device has failed."""
        spent_s, seen = self.watched.measurement.take()
        self.inside_s += spent_s
        if seen:
            self._idle.note_seen()
        error = failed_pass()
        if error is not None and not self._has_told_of_pass:
            self._has_told_of_pass = True
            self._faults.report("the Triton pass", error, "PyTorch's own operations measure instead.")

    def on_forward(self, slot: Slot, output: Any) -> Any:  # Any: whatever a module returns
        """Measure what a layer returned, and lay over it what acts there."""
        began_s = time.perf_counter()
        self._idle.note_seen()
        layer = (slot.close if self.is_focus else slot.layer) if self.is_on else None
        if layer is not None:
            try:
                if is_plain(output):
                    self._observe(layer, output)
                else:
                    with hidden_from_modes():
                        self._observe(layer, output)
            except Exception as error:  # noqa: BLE001 - ours must not become the training's
                self.give_up("observing activations", error)
        is_changed = bool(slot.chain or slot.calls)
        if is_changed:
            see_arriving = self._see_arriving if self.is_on and layer is not None else None
            output = self._overlay.over_output(slot, output, see_arriving)
        self.inside_s += time.perf_counter() - began_s
        return output if is_changed else None

    def on_compiled(self, layer: int, what: Seen, path: str, tensor: torch.Tensor) -> None:
        """Measure what a compiled graph has shown."""
        if self.is_whole:
            self._look_again()
            self._idle.note_seen()
            with hidden_from_modes():
                self.timed(
                    "observing a compiled model",
                    lambda: self.watched.measurement.see_compiled(layer, what, path, tensor),
                )

    def on_gradient(self, measurement: Measurement, token: Token, gradient: torch.Tensor) -> None:
        """Measure a gradient at an output."""
        began_s = time.perf_counter()
        try:
            if is_plain(gradient):
                measurement.see_gradient(token, gradient)
            else:
                with hidden_from_modes():
                    measurement.see_gradient(token, gradient)
        except Exception as error:  # noqa: BLE001 - as above
            self.give_up("observing gradients", error)
        self.inside_s += time.perf_counter() - began_s

    def timed(self, part: str, work: Callable[[], object]) -> None:
        """Do a part of the work, guarded, and count in its time."""
        began_s = time.perf_counter()
        self.guarded(part, work)
        self.inside_s += time.perf_counter() - began_s

    def guarded(self, part: str, work: Callable[[], object]) -> None:
        """Do a part of the work, out of sight of the user's modes already; where it fails, give up."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - ours must not become the training's
            self.give_up(part, error)

    def give_up(self, part: str, error: Exception) -> None:
        """Say what failed, and observe no longer."""
        self._is_able = self.is_on = self.is_focus = False
        self.watched.abandon()
        self._faults.report(part, error, "Observing is switched off; interventions stay in force.")

    def _observe(self, layer: LayerSlot, output: object) -> None:
        if self.measurement.see_output(layer, output):
            self._faults.tell("iteration-skipped", _SKIPPED.format(step=self.step))

    def _see_arriving(self, slot: Slot, tensor: torch.Tensor) -> None:
        layer = slot.close if self.is_focus else slot.layer
        if layer is not None:
            self.measurement.see_arriving(layer, tensor)
