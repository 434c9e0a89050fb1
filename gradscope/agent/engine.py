"""The step engine: hooks in, finished steps out. Everything here runs in the training's own threads.

A step begins where the one before ended, and ends when the optimizer has stepped:

    begin ─▶ forwards ─▶ backwards ─▶ optimizer: before │ step │ after ─▶ end ─▶ begin …

Between two steps, and nowhere else, interventions come into force and it is decided whether the next
step is observed. Only in an observed step, or while an intervention is in force, does the model have
a forward hook.
"""

import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from gradscope.agent.faults import Faults
from gradscope.agent.forward_plan import ForwardPlan, Slot
from gradscope.agent.idle import IdleWatch
from gradscope.agent.loss_scale import LossScale
from gradscope.agent.measurement import EndedStep, FinishedStep, Measurement
from gradscope.agent.overlay import Overlay
from gradscope.agent.step_parts import StepPart, StepParts
from gradscope.hooks import (
    Closure,
    CompiledHook,
    ForwardHook,
    LayerInfo,
    OptimizerHook,
    Seen,
    SlotTable,
    Structure,
    has_compiled,
    hidden_from_modes,
    is_plain,
    quiet_about_global_hooks,
)
from gradscope.intervene import Ledger
from gradscope.observe import Sampler, Token

__all__ = ["StepEngine"]

_SKIPPED = "the GradScaler skipped an iteration before step {step}: its gradients were not finite"


class StepEngine:
    """Watches one model from `start` to `stop`. It holds the model weakly."""

    def __init__(
        self,
        model: nn.Module,
        *,
        find_layers: Callable[[nn.Module], Sequence[LayerInfo]],
        optimizer: Optimizer | None,
        sampler: Sampler,
        ledger: Ledger,
        faults: Faults,
        scaler: GradScaler | None,
        is_full: bool,
        start_step: int,
        on_layers: Callable[[Sequence[LayerInfo], int], None],
        on_observed: Callable[[FinishedStep], None],
        on_end: Callable[[int, float], None],
    ) -> None:
        self.step = start_step
        self._model = weakref.ref(model)
        self._primary = weakref.ref(optimizer) if optimizer is not None else None
        self._sampler = sampler
        self._faults = faults
        self._idle = IdleWatch(faults)
        self._overlay = Overlay(ledger, faults, self._idle)
        self._parts = StepParts(faults)
        self._find_layers = find_layers
        self._on_layers = on_layers
        self._on_observed = on_observed
        self._on_end = on_end
        self._is_full = is_full
        self._loss_scale = LossScale(scaler)
        self._revision = 0
        self._compiled = CompiledHook(self._on_compiled)
        self._look_at(model)
        self._forward = ForwardHook(self._on_forward, self._compiled)
        self._optimizers = OptimizerHook(
            self._model_parameters, self._before_optimizer, self._after_optimizer
        )
        self._ended: deque[EndedStep] = deque()
        self._is_observed = False
        self._is_able = True
        self._undo_quiet: Callable[[], None] | None = None
        self._inside_s = 0.0
        self._began_s = time.perf_counter()
        self._began_at = _sequence_number()

    def add(self, part: StepPart) -> None:
        """Let a part take part in each step that begins from now on."""
        self._parts.add(part)

    def start(self) -> None:
        """Install the hooks and begin the first step."""
        self._undo_quiet = quiet_about_global_hooks()
        self._compiled.open()
        self._optimizers.install()
        self._begin()

    def stop(self) -> None:
        """Take all hooks off, and hand out what is still on its way."""
        self._optimizers.remove()
        self._forward.remove()
        self._compiled.close()
        if self._undo_quiet is not None:
            self._undo_quiet()
        self._measurement.abandon()
        self._deliver(wait=True)
        self._parts.close()

    def _look_at(self, model: nn.Module) -> None:
        """Find the model's layers, and begin to measure them on an empty board."""
        layers = self._find_layers(model)
        self._structure = Structure(model)
        self._measurement = Measurement(
            layers,
            self._revision,
            is_full=self._is_full,
            loss_scale=self._loss_scale,
            on_gradient=self._on_gradient,
        )
        self._plan = ForwardPlan(layers)
        self._compiled.watch(self._plan.watched())
        self._on_layers(layers, self._revision)

    def _follow_changes(self) -> None:
        """Look at the model anew where modules or parameters were added, removed or replaced."""
        model = self._model()
        if model is None or self._structure.is_that_of(model):
            return
        self._revision += 1
        self._look_at(model)
        self._optimizers.forget()
        self._overlay.lay(self._plan)

    def _model_parameters(self) -> list[nn.Parameter]:
        model = self._model()
        return [] if model is None else list(model.parameters())

    @property
    def is_fresh(self) -> bool:
        """Whether the step in progress has surely not begun to compute, in this thread.

        Autograd numbers the operations it records: an unchanged number means that there were none.
        """
        return _sequence_number() == self._began_at

    def settle_now(self) -> None:
        """Let requests take effect at once, where the step in progress has not begun to compute."""
        self._guarded("settling interventions", self._settle)
        self._rehook()

    def mark_step(self) -> None:
        """End a step by hand; measure parameters and gradients where no optimizer did."""
        if self._is_observed and self._primary is None:
            parameters = self._model_parameters()
            self._guarded("parameters", lambda: self._measurement.see_parameters(parameters))
        self._end()

    def _on_forward(self, slot: Slot, output: Any) -> Any:  # Any: whatever a module returns
        began_s = time.perf_counter()
        self._idle.note_seen()
        if self._is_observed:
            try:
                if is_plain(output):
                    self._observe(slot, output)
                else:
                    with hidden_from_modes():
                        self._observe(slot, output)
            except Exception as error:  # noqa: BLE001 - ours must not become the training's
                self._give_up("observing activations", error)
        if slot.chain:
            see_arriving = self._see_arriving if self._is_observed else None
            output = self._overlay.over_output(slot, output, see_arriving)
        self._inside_s += time.perf_counter() - began_s
        return output if slot.chain else None

    def _observe(self, slot: Slot, output: object) -> None:
        if self._measurement.see_output(slot.layer, output):
            self._faults.tell("iteration-skipped", _SKIPPED.format(step=self.step))

    def _on_compiled(self, layer: int, what: Seen, tensor: torch.Tensor) -> None:
        if self._is_observed:
            self._idle.note_seen()
            self._timed(
                "observing a compiled model",
                lambda: self._measurement.see_compiled(layer, what, tensor),
            )

    def _on_gradient(self, token: Token, gradient: torch.Tensor) -> None:
        began_s = time.perf_counter()
        try:
            if is_plain(gradient):
                self._measurement.see_gradient(token, gradient)
            else:
                with hidden_from_modes():
                    self._measurement.see_gradient(token, gradient)
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up("observing gradients", error)
        self._inside_s += time.perf_counter() - began_s

    def _see_arriving(self, slot: Slot, tensor: torch.Tensor) -> None:
        self._measurement.see_arriving(slot.layer, tensor)

    def _before_optimizer(self, optimizer: Optimizer, closure: Closure | None) -> Closure | None:
        if self._is_observed:
            has_closure = closure is not None
            self._timed(
                "parameters",
                lambda: self._measurement.before_optimizer(optimizer, has_closure=has_closure),
            )
        self._parts.each(lambda part: part.before_optimizer(optimizer))
        return self._measured(closure, optimizer) if closure is not None and self._is_observed else None

    def _measured(self, closure: Closure, optimizer: Optimizer) -> Closure:
        """Return a closure that does the same, and measures the gradients after each evaluation."""

        def evaluate() -> Any:  # Any: whatever the user's closure returns
            value = closure()
            if self._is_observed:
                self._timed("parameters", lambda: self._measurement.after_closure(optimizer))
            return value

        return evaluate

    def _after_optimizer(self, optimizer: Optimizer) -> None:
        if self._is_observed:
            self._timed("updates", self._measurement.after_optimizer)
        self._parts.each(lambda part: part.after_optimizer(optimizer))
        if self._primary is None or self._primary() is None:
            self._primary = weakref.ref(optimizer)
        if self._primary() is optimizer:
            self._end()

    def _end(self) -> None:
        """End the step in progress and begin the next."""
        began_s = time.perf_counter()
        step_time_s = began_s - self._began_s
        if self._is_observed:
            self._guarded("reading the board", lambda: self._harvest(step_time_s))
        self._guarded("judging a step", self._judge)
        self._guarded("delivering a step", lambda: self._deliver(wait=False))
        self._guarded("ending a step", lambda: self._on_end(self.step, step_time_s))
        self._parts.each(lambda part: part.end(self.step, step_time_s, is_observed=self._is_observed))
        now_s = time.perf_counter()
        self._inside_s += now_s - began_s
        self._sampler.record(
            self.step, now_s - self._began_s, self._inside_s, was_observed=self._is_observed
        )
        self.step += 1
        self._begin()

    def _begin(self) -> None:
        self._parts.each(lambda part: part.at_boundary(self.step))
        self._began_s = time.perf_counter()
        self._is_observed = self._is_able and self._sampler.is_due(self.step)
        if self._is_observed:
            self._guarded("following changes of the model", self._follow_changes)
        self._guarded("settling interventions", self._settle)
        self._rehook()
        if self._is_observed:
            self._measurement.begin()
        self._parts.each(lambda part: part.begin(self.step, is_observed=self._is_observed))
        self._inside_s = time.perf_counter() - self._began_s
        self._began_at = _sequence_number()

    def _settle(self) -> None:
        self._overlay.settle(self.step, self._plan)

    def _rehook(self) -> None:
        """Bring the forward hook into line with what this step needs.

        Once anything was compiled it stays: what is traced in an unobserved step must know of it too.
        """
        self._compiled.is_on = self._is_observed
        table = self._plan.table(is_observed=self._is_observed)
        if table is not None:
            self._forward.watch(table)
        elif has_compiled():
            self._forward.watch(SlotTable(()))
        else:
            self._forward.remove()

    def _harvest(self, step_time_s: float) -> None:
        self._ended.append(self._measurement.end(self.step, step_time_s))

    def _judge(self) -> None:
        self._overlay.judge(self.step, is_observed=self._is_observed)

    def _deliver(self, *, wait: bool) -> None:
        while self._ended and (wait or self._ended[0].harvest.is_ready()):
            ended = self._ended.popleft()
            finished = ended.finished(self._sampler.every, self._sampler.cost())
            self._on_observed(finished)
            self._parts.observed(finished)

    def _timed(self, part: str, work: Callable[[], object]) -> None:
        began_s = time.perf_counter()
        self._guarded(part, work)
        self._inside_s += time.perf_counter() - began_s

    def _guarded(self, part: str, work: Callable[[], object]) -> None:
        try:
            with hidden_from_modes():
                work()
        except Exception as error:  # noqa: BLE001 - ours must not become the training's
            self._give_up(part, error)

    def _give_up(self, part: str, error: Exception) -> None:
        self._is_able = self._is_observed = False
        self._measurement.abandon()
        self._faults.report(part, error, "Observing is switched off; interventions stay in force.")


def _sequence_number() -> int:
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]  # noqa: SLF001 - no public name
