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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.agent.faults import Faults
from gradscope.agent.idle import IdleWatch
from gradscope.columns import Block
from gradscope.hooks import (
    ForwardHook,
    LayerInfo,
    OptimizerHook,
    SlotTable,
    parameters_of,
    quiet_about_global_hooks,
    replace_tensors,
)
from gradscope.intervene import Applied, Ledger
from gradscope.observe import (
    ActivationObserver,
    Board,
    Harvest,
    LayerSlot,
    ParameterObserver,
    Sampler,
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


class _Slot:
    """What the forward hook finds for a layer: what to observe, and what to lay over its output."""

    __slots__ = ("chain", "layer", "name")

    def __init__(self, layer: LayerInfo) -> None:
        self.name = layer.name
        self.layer = LayerSlot(layer)
        self.chain: tuple[Applied, ...] = ()


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
        self._activations = ActivationObserver(self._board)
        self._parameters = ParameterObserver(self._board, layers)
        self._modules = {layer.name: weakref.ref(layer.module) for layer in layers}
        self._slots = {layer.name: _Slot(layer) for layer in layers}
        self._observed_table = SlotTable(
            (layer.module, self._slots[layer.name]) for layer in layers if layer.is_watched
        )
        self._changed_table: SlotTable[_Slot] = SlotTable(())
        self._forward = ForwardHook(self._on_forward)
        self._optimizers = OptimizerHook(self._before_optimizer, self._after_optimizer)
        self._optimizers.set_parameters(model.parameters())
        self._harvests: deque[tuple[Harvest, int, float, float]] = deque()
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
        if self._ledger.settle(self.step):
            self._rehook()

    def mark_step(self) -> None:
        """End a step by hand; measure parameters and gradients where no optimizer did."""
        model = self._model()
        if self._is_observed and self._primary is None and model is not None:
            self._guarded("parameters", lambda: self._parameters.before(list(model.parameters())))
            self._parameters.forget()
        self._end()

    def _on_forward(self, slot: _Slot, output: Any) -> Any:  # Any: whatever a module returns
        began_s = time.perf_counter()
        self._idle.note_seen()
        if self._is_observed:
            try:
                self._activations.on_output(slot.layer, output)
            except Exception as error:  # noqa: BLE001 - ours must not become the training's
                self._give_up("observing activations", error)
        if slot.chain and torch.is_grad_enabled():
            output = replace_tensors(output, lambda tensor: self._lay_over(slot, tensor))
        self._inside_s += time.perf_counter() - began_s
        return output if slot.chain else None

    def _lay_over(self, slot: _Slot, tensor: torch.Tensor) -> torch.Tensor:
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

    def _before_optimizer(self, optimizer: Optimizer) -> None:
        if self._is_observed:
            began_s = time.perf_counter()
            self._guarded("parameters", lambda: self._parameters.before(parameters_of(optimizer)))
            self._inside_s += time.perf_counter() - began_s

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
            self._activations.end()
            self._harvests.append((self._board.harvest(), self.step, time.time(), step_time_s))
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
        self._guarded("settling interventions", lambda: self._ledger.settle(self.step))
        self._rehook()
        if self._is_observed:
            self._activations.begin()
        self._inside_s = time.perf_counter() - self._began_s
        self._began_at = _sequence_number()

    def _rehook(self) -> None:
        """Bring the forward hook into line with what this step needs."""
        chains = self._ledger.by_layer()
        self._lay_chains(chains)
        if self._is_observed:
            self._forward.watch(self._table_with(chains))
        elif chains:
            self._forward.watch(self._changed_table)
        else:
            self._forward.remove()

    def _lay_chains(self, chains: Mapping[str, tuple[Applied, ...]]) -> None:
        for name, slot in self._slots.items():
            slot.chain = chains.get(name, ())
        self._changed_table = SlotTable(self._alive(chains))

    def _table_with(self, chains: Mapping[str, tuple[Applied, ...]]) -> SlotTable[_Slot]:
        """Return the table of an observed step; it also holds changed layers that are not watched."""
        return self._observed_table if not chains else self._observed_table | self._changed_table

    def _alive(self, names: Mapping[str, object]) -> list[tuple[nn.Module, _Slot]]:
        pairs = [(self._modules[name](), self._slots[name]) for name in names]
        return [(module, slot) for module, slot in pairs if module is not None]

    def _judge(self) -> None:
        self._idle.judge(self.step, self._ledger.active(), is_observed=self._is_observed)

    def _deliver(self, *, wait: bool) -> None:
        while self._harvests and (wait or self._harvests[0][0].is_ready()):
            harvest, step, time_s, step_time_s = self._harvests.popleft()
            every, cost = self._sampler.every, self._sampler.cost()
            self._on_observed(FinishedStep(step, time_s, step_time_s, every, cost, harvest.block()))

    def _guarded(self, part: str, work: Callable[[], object]) -> None:
        try:
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
