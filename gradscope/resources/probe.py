"""`Probe`: measures memory and time of the layers while a step runs.

After each outermost call of the model, its graph is read once: saved storages are counted, and each operation gets
two hooks that time its backward. Afterwards neither a tensor nor a node is held.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import Node

from gradscope.hooks import (
    CallHooks,
    LayerInfo,
    SlotTable,
    is_recomputing,
    is_transforming,
)
from gradscope.resources.attribution import OUTSIDE, LayerAttribution
from gradscope.resources.autograd_graph import operations_behind, tensors_in
from gradscope.resources.clocks import HostClock
from gradscope.resources.layer_marks import LayerMemoryMarks
from gradscope.resources.owned_memory import OwnedMemory
from gradscope.resources.saved_tensors import SavedBytes, SavedTensorCounter
from gradscope.resources.stopwatch import Stopwatch
from gradscope.resources.system_memory import SystemMemory

__all__ = ["MemoryPeak", "Probe"]


@dataclass(frozen=True, slots=True)
class MemoryPeak:
    """The memory at the time when most bytes were saved for the backward pass.

    batch_bytes: inputs and outputs of the model. held_bytes: all memory in use, if known.
    """

    saved: SavedBytes
    batch_bytes: int
    grad_bytes: int
    held_bytes: int | None


class Probe:
    """Measures from `begin` to `end`. It can be used for several steps.

    guard: runs gradscope's own work and keeps its exceptions away from the training.
    limit: called at the exit of a layer and after an operation's backward. Its exceptions reach the training.
    """

    def __init__(
        self,
        layers: Sequence[LayerInfo],
        machine: SystemMemory,
        guard: Callable[[Callable[[], None]], None],
        limit: Callable[[], None] | None = None,
    ) -> None:
        self.owned = OwnedMemory(layers)
        self.layer_marks = LayerMemoryMarks(
            machine,
            {layer.index for layer in layers if len(layer.module._modules)},  # noqa: SLF001 - children() makes objects
        )
        self.peak: MemoryPeak | None = None
        self.called = 0
        self._system = machine
        self._guard = guard
        self._limit = limit
        self._counter = SavedTensorCounter()
        self._watch: Stopwatch | None = None
        self._where: dict[int, LayerAttribution] = {}
        self._hooks = CallHooks(
            SlotTable((layer.module, layer.index) for layer in layers),
            self._enter,
            self._leave,
            self._abandon,
        )

    @property
    def is_hooked(self) -> bool:
        """Whether the hooks are installed."""
        return self._hooks.is_installed

    @property
    def threads(self) -> int:
        """The number of threads in which layers were called outside a backward pass."""
        return len(self._where)

    def begin(self, clock: HostClock, *, can_hook: bool = True) -> None:
        """Begin a step. If `can_hook` is False, measure only what needs no hooks."""
        self._clear()
        self._system.open()
        if can_hook:
            self._hooks.install()
        self._watch = Stopwatch(clock)

    def end(self) -> Stopwatch | None:
        """End the step, and return the stopwatch, which may not be ready yet."""
        watch, self._watch = self._watch, None
        self._system.close()
        if watch is not None:
            watch.stop()
        return watch

    def remove(self) -> None:
        """Remove the hooks and clear the results."""
        self._hooks.remove()
        self._clear()

    def begin_optimizer(self) -> None:
        """Begin the phase `optimizer`."""
        if self._watch is not None:
            self._watch.begin_phase("optimizer")

    def end_optimizer(self) -> None:
        """End the phase `optimizer`."""
        if self._watch is not None:
            self._watch.begin_phase("other")

    def layer_stack(self) -> list[int]:
        """Return the layers that this thread is in, the outermost first."""
        where = self._where.get(threading.get_ident())
        return list(where.stack) if where is not None else []

    def layer_in_backward(self) -> int:
        """Return the layer whose backward is running, in any thread; OUTSIDE if none is running."""
        return self._watch.layer_in_backward() if self._watch is not None else OUTSIDE

    def count_graph(self, outputs: list[torch.Tensor]) -> None:
        """Count the storages that the graphs behind tensors save, after a forward that raised."""
        where = self._where.get(threading.get_ident())
        if where is not None and where.began_at is not None:
            nodes = [n for n in operations_behind(outputs) if n._sequence_nr() >= where.began_at]  # noqa: SLF001 - torch has no public name for it
            self._counter.add(nodes, where.stack_of, self.owned.tensors(), ())
            self._update_peak(0)

    def _clear(self) -> None:
        self._counter.clear()
        self._where.clear()
        self.layer_marks.clear()
        self.peak, self.called = None, 0

    def _enter(self, layer: int, args: Any) -> None:  # Any: torch's types
        watch = self._watch
        if watch is not None:
            watch.clock.pause()
            self._guard(lambda: self._record_enter(layer, args))
            watch.clock.resume()

    def _record_enter(self, layer: int, args: object) -> None:
        watch = self._running()
        is_backward = _is_in_backward()
        if not is_backward:
            if self._attribution().enter(layer):
                watch.begin_phase("forward")
            self.called += 1
            watch.calls[layer] = watch.calls.get(layer, 0) + 1
            self.layer_marks.enter(layer, args)
        watch.enter(layer, is_backward=is_backward)

    def _leave(self, layer: int, args: Any, kwargs: Any, output: Any) -> None:  # Any: torch's types
        watch = self._watch
        if watch is not None:
            watch.clock.pause()
            self._guard(lambda: self._record_leave(layer, args, kwargs, output))
            watch.clock.resume()
            if self._limit is not None:
                self._limit()

    def _record_leave(self, layer: int, args: object, kwargs: object, output: object) -> None:
        watch = self._running()
        watch.leave(layer)
        if _is_in_backward():
            if not is_recomputing() and torch.is_grad_enabled():
                self._time_backward(watch, operations_behind(tensors_in(output)), lambda _: layer)
            return
        self.layer_marks.leave(layer, args, kwargs)
        where = self._attribution()
        began_at = where.began_at
        if where.leave(layer):
            watch.begin_phase("loss")
            if torch.is_grad_enabled() and not is_transforming() and began_at is not None:
                given = list(tensors_in((args, kwargs)))
                self._record_graph(where, began_at, given, list(tensors_in(output)))

    def _abandon(self, layer: int) -> None:
        watch = self._watch
        if watch is not None:
            watch.clock.pause()
            self._guard(lambda: self._record_abandon(layer))
            watch.clock.resume()

    def _record_abandon(self, layer: int) -> None:
        watch = self._running()
        watch.leave(layer)
        if not _is_in_backward() and self._attribution().leave(layer):
            watch.begin_phase("other")

    def _record_graph(
        self,
        where: LayerAttribution,
        began_at: int,
        given: list[torch.Tensor],
        outputs: list[torch.Tensor],
    ) -> None:
        nodes = [n for n in operations_behind(outputs) if n._sequence_nr() >= began_at]  # noqa: SLF001 - torch has no public name for it
        if not nodes:
            return
        call = self._counter.add(nodes, where.stack_of, self.owned.tensors(), given)
        self._update_peak(self._counter.batch_bytes(call, given, outputs))
        self._time_backward(self._running(), nodes, where.layer_of)
        for last in {t.grad_fn for t in outputs if t.grad_fn is not None}:
            last.register_prehook(lambda _: call.release())

    def _update_peak(self, batch_bytes: int) -> None:
        saved = self._counter.held()
        if self.peak is None or saved.total_bytes > self.peak.saved.total_bytes:
            grads = sum(self.owned.gradients().values())
            self.peak = MemoryPeak(saved, batch_bytes, grads, self._system.held_bytes())

    def _time_backward(
        self, watch: Stopwatch, nodes: Sequence[Node], layer_of: Callable[[int], int]
    ) -> None:
        layers = [layer_of(node._sequence_nr()) for node in nodes]  # noqa: SLF001 - torch has no public name for it
        watch.time_backward(nodes, layers, self._limit)

    def _attribution(self) -> LayerAttribution:
        thread = threading.get_ident()
        where = self._where.get(thread)
        if where is None:
            where = self._where[thread] = LayerAttribution()
        return where

    def _running(self) -> Stopwatch:
        if self._watch is None:
            raise RuntimeError("the probe is not in a step")
        return self._watch


def _is_in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1  # noqa: SLF001 - torch has no public name for it
