"""`ModelHooks`: the hooks on a model's forward calls, and the code that they call.

    ForwardHook ─▶ NativeHooks (C): a plain output in an observed step without interventions
                └▶ on_forward: every other output

The forward hook is installed only in steps that need it. After a compilation it stays installed,
because a graph that is traced in an unobserved step must contain the hook.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from gradscope.agent.interventions.apply_forward import ForwardInterventions
from gradscope.agent.interventions.no_effect_warnings import NoEffectWarnings
from gradscope.agent.observation.guard import ObservingGuard
from gradscope.agent.observation.layer_slots import Slot
from gradscope.agent.observation.measurement import Measurement
from gradscope.agent.observation.model_tracker import ModelTracker
from gradscope.agent.run.context import RunContext
from gradscope.hooks import (
    CompiledHook,
    ForwardHook,
    OptimizerHook,
    Seen,
    SlotTable,
    has_compiled,
    hidden_from_modes,
    is_plain,
    quiet_about_global_hooks,
)
from gradscope.observe import LayerSlot, failed_pass

__all__ = ["ModelHooks"]

_SKIPPED = "the GradScaler skipped an iteration before step {step}: its gradients were not finite"


class ModelHooks:
    """Observes outputs in observed steps, and applies interventions to outputs in all steps."""

    def __init__(
        self,
        run: RunContext,
        tracker: ModelTracker,
        guard: ObservingGuard,
        interventions: ForwardInterventions,
        warnings: NoEffectWarnings,
        optimizers: OptimizerHook,
    ) -> None:
        self._run = run
        self._tracker = tracker
        self._guard = guard
        self._interventions = interventions
        self._warnings = warnings
        self._optimizers = optimizers
        self._compiled = CompiledHook(self._on_compiled)
        self._compiled.watch(tracker.slots.watched())
        self._forward: ForwardHook[Slot] = ForwardHook(self._on_forward, self._compiled)
        self._is_due = self._is_focus_due = False
        self._had_compiled = False
        self._has_reported_pass = False
        self._undo_quiet: Callable[[], None] | None = None

    def listen(self, listener: Callable[[nn.Module], None] | None) -> None:
        """Call a function with each module whose forward has returned, while the forward hook is installed."""
        self._forward.listener = listener

    def open(self) -> None:
        """Register with torch.compile, and silence torch's warning about global hooks."""
        self._undo_quiet = quiet_about_global_hooks()
        self._compiled.open()

    def close(self) -> None:
        """Remove all hooks and undo `open`."""
        self._forward.remove()
        self._compiled.close()
        if self._undo_quiet is not None:
            self._undo_quiet()
            self._undo_quiet = None

    def begin(self, *, is_due: bool, is_focus_due: bool) -> None:
        """Begin a step: observed if `is_due`, otherwise a focus step if `is_focus_due` and a focus is set."""
        self._is_due = is_due
        self._is_focus_due = is_focus_due and not is_due and self._tracker.focus_measurement is not None
        self._tracker.begin(is_observed=self.is_observed)

    @property
    def is_observed(self) -> bool:
        """Whether the statistics of all layers are recorded in the step in progress."""
        return self._is_due and self._guard.is_able

    @property
    def is_focus(self) -> bool:
        """Whether the statistics of the layers in the focus are recorded in the step in progress."""
        return self._is_focus_due and self._guard.is_able

    @property
    def is_on(self) -> bool:
        """Whether any statistics are recorded in the step in progress."""
        return (self._is_due or self._is_focus_due) and self._guard.is_able

    @property
    def measurement(self) -> Measurement:
        """The measurement of the step in progress."""
        focus = self._tracker.focus_measurement if self._is_focus_due else None
        return self._tracker.measurement if focus is None else focus

    @property
    def are_current(self) -> bool:
        """Whether `align` would change nothing. It would after the first compilation of the process."""
        return has_compiled() == self._had_compiled

    def align(self) -> None:
        """Install or remove the forward hook, as required by the step that begins."""
        tracker = self._tracker
        self._had_compiled = has_compiled()
        self._compiled.is_on = self.is_observed
        table = tracker.slots.table(is_observed=self.is_observed, is_focus=self.is_focus)
        if table is not None:
            first = self.follow_modules if tracker.must_search else None
            is_native = self.is_observed and not tracker.slots.is_changed
            self._forward.watch(
                table, first, tracker.measurement.native_recorder if is_native else None
            )
        elif self._had_compiled:
            self._forward.watch(SlotTable(()))
        elif self._forward.is_installed:
            self._forward.remove()

    def follow_modules(self) -> bool:
        """Search for changed modules. Return whether the search is complete for this step."""
        if self._tracker.takes_search():
            with hidden_from_modes():
                self._guard.run("following changes of the model", self._follow_modules)
        return not self._tracker.must_search

    def follow_parameters(self) -> None:
        """Search for changed parameters before an optimizer steps."""
        tracker = self._tracker
        if self.is_focus and tracker.owns_same_in_focus():
            return
        if tracker.follow_parameters():
            self._optimizers.forget()

    def count_native(self) -> None:
        """Add the time spent in C, and report a device pass that has failed."""
        spent_s, outputs = self._tracker.measurement.activations.take_native_counts()
        self._guard.spent_s += spent_s
        if outputs:
            self._warnings.note_seen()
        error = failed_pass()
        if error is not None and not self._has_reported_pass:
            self._has_reported_pass = True
            self._run.faults.report(
                "the Triton pass", error, "PyTorch's own operations are used instead."
            )

    def _follow_modules(self) -> None:
        tracker = self._tracker
        if tracker.follow_modules():
            self._compiled.watch(tracker.slots.watched())
            self._optimizers.forget()
            self._interventions.assign_interventions(tracker.slots)
            self.align()
            tracker.measurement.begin()

    def _on_forward(self, slot: Slot, output: Any) -> Any:  # Any: whatever a module returns
        """Observe an output and apply interventions to it. Called by the forward hook."""
        began_s = time.perf_counter()
        self._warnings.note_seen()
        layer = (slot.focus_layer if self._is_focus_due else slot.layer) if self.is_on else None
        if layer is not None:
            try:
                if is_plain(output):
                    self._observe(layer, output)
                else:
                    with hidden_from_modes():
                        self._observe(layer, output)
            except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
                self._guard.give_up("observing activations", error)
        is_changed = bool(slot.chain or slot.calls)
        if is_changed:
            record_arriving = self._see_arriving if self.is_on and layer is not None else None
            output = self._interventions.over_output(slot, output, record_arriving)
        self._guard.spent_s += time.perf_counter() - began_s
        return output if is_changed else None

    def _on_compiled(self, layer: int, what: Seen, path: str, tensor: torch.Tensor) -> None:
        """Observe a tensor of a compiled graph. Called by the custom op in the graph."""
        if self.is_observed:
            self.follow_modules()
            self._warnings.note_seen()
            activations = self._tracker.measurement.activations
            with hidden_from_modes():
                self._guard.run_timed(
                    "observing a compiled model",
                    lambda: activations.add_compiled(layer, what, path, tensor),
                )

    def _observe(self, layer: LayerSlot, output: object) -> None:
        if self.measurement.record_output(layer, output):
            self._run.faults.tell("iteration-skipped", _SKIPPED.format(step=self._run.counter.step))

    def _see_arriving(self, slot: Slot, tensor: torch.Tensor) -> None:
        layer = slot.focus_layer if self._is_focus_due else slot.layer
        if layer is not None:
            self.measurement.activations.watch_arriving(layer, tensor)
