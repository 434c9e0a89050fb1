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
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from gradscope.agent.faults import Faults
from gradscope.agent.forward_plan import ForwardPlan, Slot
from gradscope.agent.idle import IdleWatch
from gradscope.agent.loss_scale import LossScale
from gradscope.columns import Block
from gradscope.hooks import (
    Closure,
    ForwardHook,
    LayerInfo,
    OptimizerHook,
    hidden_from_modes,
    parameters_of,
    quiet_about_global_hooks,
    replace_tensors,
)
from gradscope.intervene import Ledger
from gradscope.observe import (
    ActivationObserver,
    Board,
    Harvest,
    ParameterObserver,
    Sampler,
    Token,
)

__all__ = ["FinishedStep", "StepEngine"]


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """One observed step. `cost` is the fraction of time that observing takes at present."""

    step: int
    time_s: float
    step_time_s: float
    every: int
    cost: float | None
    block: Block


_Waiting = tuple[Harvest, Callable[[Block], Block], int, float, float]


class StepEngine:
    """Watches one model from `start` to `stop`. It holds the model weakly."""

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[LayerInfo],
        *,
        optimizer: Optimizer | None,
        sampler: Sampler,
        ledger: Ledger,
        faults: Faults,
        scaler: GradScaler | None,
        is_full: bool,
        start_step: int,
        on_observed: Callable[[FinishedStep], None],
        on_end: Callable[[int, float], None],
    ) -> None:
        self.step = start_step
        self._model = weakref.ref(model)
        self._primary = weakref.ref(optimizer) if optimizer is not None else None
        self._sampler = sampler
        self._ledger = ledger
        self._faults = faults
        self._on_observed = on_observed
        self._on_end = on_end
        self._board = Board(is_full=is_full)
        self._activations = ActivationObserver(self._board, self._on_gradient)
        self._loss_scale = LossScale(scaler)
        self._parameters = ParameterObserver(self._board, layers)
        self._plan = ForwardPlan(layers)
        self._forward = ForwardHook(self._on_forward)
        self._optimizers = OptimizerHook(self._before_optimizer, self._after_optimizer)
        self._optimizers.set_parameters(model.parameters())
        self._harvests: deque[_Waiting] = deque()
        self._is_observed = False
        self._is_able = True
        self._idle = IdleWatch(faults)
        self._undo_quiet: Callable[[], None] | None = None
        self._inside_s = 0.0
        self._began_s = time.perf_counter()
        self._began_at = _sequence_number()

    def start(self) -> None:
        """Install the hooks and begin the first step."""
        self._undo_quiet = quiet_about_global_hooks()
        self._optimizers.install()
        self._begin()

    def stop(self) -> None:
        """Take all hooks off, and hand out what is still on its way."""
        self._optimizers.remove()
        self._forward.remove()
        if self._undo_quiet is not None:
            self._undo_quiet()
        self._activations.end()
        self._parameters.forget()
        self._deliver(wait=True)

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
        model = self._model()
        if self._is_observed and self._primary is None and model is not None:
            self._guarded("parameters", lambda: self._parameters.before(list(model.parameters())))
            self._parameters.forget()
        self._end()

    def _on_forward(self, slot: Slot, output: Any) -> Any:  # Any: whatever a module returns
        began_s = time.perf_counter()
        self._idle.note_seen()
        if self._is_observed:
            try:
                with hidden_from_modes():
                    self._observe(slot, output)
            except Exception as error:  # noqa: BLE001 - ours must not become the training's
                self._give_up("observing activations", error)
        if slot.chain and torch.is_grad_enabled():
            output = replace_tensors(output, lambda tensor: self._lay_over(slot, tensor))
        self._inside_s += time.perf_counter() - began_s
        return output if slot.chain else None

    def _observe(self, slot: Slot, output: object) -> None:
        if self._loss_scale.note_forward():
            self._forget_iteration()
        self._activations.on_output(slot.layer, output)

    def _on_gradient(self, token: Token, gradient: torch.Tensor) -> None:
        began_s = time.perf_counter()
        try:
            with hidden_from_modes():
                self._activations.add_gradient(token, gradient)
        except Exception as error:  # noqa: BLE001 - as above
            self._give_up("observing gradients", error)
        self._inside_s += time.perf_counter() - began_s

    def _forget_iteration(self) -> None:
        """Begin the step again: the scaler has skipped the iteration that was taken for it."""
        self._activations.end()
        self._board.harvest()
        self._activations.begin()
        self._faults.tell(
            "iteration-skipped",
            f"the GradScaler skipped an iteration before step {self.step}: gradients were not finite",
        )

    def _lay_over(self, slot: Slot, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensor with the layer's interventions on its gradient, the first set outermost."""
        if not tensor.requires_grad:
            return tensor
        changed = tensor
        try:
            for applied in reversed(slot.chain):
                changed = applied(changed)
            if self._is_observed:
                self._activations.watch_arriving(slot.layer, changed)
        except Exception as error:  # noqa: BLE001 - as above; the gradient stays as it was
            self._faults.report("an intervention", error, "This gradient was left as it was.")
            return tensor
        self._idle.note_acted(slot.name)
        return changed

    def _before_optimizer(self, optimizer: Optimizer, closure: Closure | None) -> Closure | None:
        if not self._is_observed:
            return None
        began_s = time.perf_counter()
        parameters = parameters_of(optimizer)
        self._loss_scale.note_optimizer(optimizer)
        if closure is None:
            self._guarded("parameters", lambda: self._parameters.before(parameters))
        else:
            self._guarded("parameters", lambda: self._parameters.before_closure(parameters))
        self._inside_s += time.perf_counter() - began_s
        return None if closure is None else self._measured(closure, parameters)

    def _measured(self, closure: Closure, parameters: list[nn.Parameter]) -> Closure:
        """Return a closure that does the same, and measures the gradients after each evaluation."""

        def evaluate() -> Any:  # Any: whatever the user's closure returns
            value = closure()
            if self._is_observed:
                began_s = time.perf_counter()
                self._guarded("parameters", lambda: self._parameters.measure_gradients(parameters))
                self._inside_s += time.perf_counter() - began_s
            return value

        return evaluate

    def _after_optimizer(self, optimizer: Optimizer) -> None:
        began_s = time.perf_counter()
        if self._is_observed:
            self._guarded("updates", self._parameters.after)
        self._inside_s += time.perf_counter() - began_s
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
        now_s = time.perf_counter()
        self._inside_s += now_s - began_s
        self._sampler.record(
            self.step, now_s - self._began_s, self._inside_s, was_observed=self._is_observed
        )
        self.step += 1
        self._begin()

    def _begin(self) -> None:
        self._began_s = time.perf_counter()
        self._is_observed = self._is_able and self._sampler.is_due(self.step)
        self._guarded("settling interventions", self._settle)
        self._rehook()
        if self._is_observed:
            self._activations.begin()
            self._loss_scale.begin()
        self._inside_s = time.perf_counter() - self._began_s
        self._began_at = _sequence_number()

    def _settle(self) -> None:
        if self._ledger.settle(self.step):
            self._plan.lay(self._ledger.by_layer())

    def _rehook(self) -> None:
        """Bring the forward hook into line with what this step needs."""
        table = self._plan.table(is_observed=self._is_observed)
        if table is None:
            self._forward.remove()
        else:
            self._forward.watch(table)

    def _harvest(self, step_time_s: float) -> None:
        self._activations.end()
        correct = self._loss_scale.correction()
        self._harvests.append((self._board.harvest(), correct, self.step, time.time(), step_time_s))

    def _judge(self) -> None:
        self._idle.judge(self.step, self._ledger.active(), is_observed=self._is_observed)

    def _deliver(self, *, wait: bool) -> None:
        while self._harvests and (wait or self._harvests[0][0].is_ready()):
            harvest, correct, step, time_s, step_time_s = self._harvests.popleft()
            every, cost, block = self._sampler.every, self._sampler.cost(), correct(harvest.block())
            self._on_observed(FinishedStep(step, time_s, step_time_s, every, cost, block))

    def _guarded(self, part: str, work: Callable[[], object]) -> None:
        try:
            with hidden_from_modes():
                work()
        except Exception as error:  # noqa: BLE001 - ours must not become the training's
            self._give_up(part, error)

    def _give_up(self, part: str, error: Exception) -> None:
        self._is_able = self._is_observed = False
        self._activations.end()
        self._parameters.forget()
        self._faults.report(part, error, "Observing is switched off; interventions stay in force.")


def _sequence_number() -> int:
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]  # noqa: SLF001 - no public name
