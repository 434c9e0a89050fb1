"""Memory and time, measured in chosen steps of a run and reported to viewers."""

import math
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.agent.commands.queue import Boundary, Prepared
from gradscope.agent.run.faults import Faults
from gradscope.agent.step.plugins import StepPlugin
from gradscope.columns import MemoryTable, TimesTable
from gradscope.errors import NotMeasuredError
from gradscope.hooks import LayerInfo, frames_of, has_compiled, hidden_from_modes
from gradscope.protocol import Command
from gradscope.resources import (
    MeasuringSchedule,
    MemoryReading,
    OwnedBytes,
    Probe,
    Stopwatch,
    SystemMemory,
    TimesReading,
    clock_for,
    local_tensors,
    memory_reading,
    oom_location,
    oom_report,
    times_reading,
)

__all__ = ["MeasuredLayers", "ResourcePlugin"]

_NOT_YET: Final = (
    "no {what} has been measured yet: {when}. Call scope.measure_now() to measure the next step"
)
_REPORT_EVERY: Final = 16
"""The cost is reported every 16 steps, because the step time of the training may have changed."""

_LIMIT: Final = (
    "gradscope: {held} bytes are in use, above the limit of {limit} bytes set with "
    "attach(memory_limit_bytes=…)"
)


@dataclass(frozen=True, slots=True)
class MeasuredLayers:
    """The layers that the rows of a reading index: those of the manifest's `revision`."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class _PendingTimes:
    step: int
    layers: MeasuredLayers
    watch: Stopwatch[Any]  # Any: of whichever clock
    is_observed: bool


class ResourcePlugin(StepPlugin):
    """Measures memory and time of some steps. It holds weak references to the model and optimizers.

    optimizers: returns the model's optimizers. on_memory, on_times: receive a reading when it is complete.
    set_aside: receives the fraction of the step time that measuring costs. limit_bytes: above it, an
    OutOfMemoryError is raised when a layer returns, as an allocator would do. Then every step is measured,
    so that the error can name the largest holders.
    """

    name = "measuring memory and time"
    needs_observed = True

    def __init__(
        self,
        *,
        schedule: MeasuringSchedule,
        faults: Faults,
        optimizers: Callable[[], Iterable[Optimizer]],
        on_memory: Callable[[MemoryReading, MeasuredLayers], None],
        on_times: Callable[[TimesReading, MeasuredLayers], None],
        set_aside: Callable[[float], None],
        limit_bytes: int | None,
    ) -> None:
        self._schedule = schedule
        self._faults = faults
        self._optimizers = optimizers
        self._on_memory = on_memory
        self._on_times = on_times
        self._set_aside = set_aside
        self._limit_bytes = limit_bytes
        self._layers = MeasuredLayers((), (), 0)
        self._next: tuple[Probe, SystemMemory, MeasuredLayers] | None = None
        self._probe: Probe | None = None
        self._modules: list[weakref.ref[nn.Module]] = []
        self._optimizer_before_bytes = 0
        self._pending: list[_PendingTimes] = []
        self._memory: tuple[MemoryReading, MeasuredLayers] | None = None
        self._times: tuple[TimesReading, MeasuredLayers] | None = None
        self._step = 0
        self._is_enabled = True
        self._is_measured = False
        self._own_time_s = 0.0

    def set_layers(self, layers: Sequence[LayerInfo], revision: int) -> None:
        """Set the layers to measure from the next step on."""
        names = tuple(layer.name for layer in layers)
        types = tuple(type(layer.module).__name__ for layer in layers)
        machine = SystemMemory(_device_of(layers))
        limit = self._enforce if self._limit_bytes is not None else None
        probe = Probe(layers, machine, self._guard, limit)
        self._next = probe, machine, MeasuredLayers(names, types, revision)
        self._modules = [weakref.ref(layer.module) for layer in layers]

    def request_now(self) -> None:
        """Measure the next step, regardless of the budget."""
        self._schedule.ask_now()
        self.wake()

    def prepare_measure(self, command: Command) -> Prepared:  # noqa: ARG002 - the signature of all command functions
        """Validate a viewer's command to measure the next step."""

        def apply(command_slot: Boundary) -> None:
            self.request_now()
            command_slot.done(command_slot.step)

        return apply

    def memory(self) -> MemoryTable:
        """Return the newest table. Raises NotMeasuredError if there is none."""
        if self._memory is None:
            raise NotMeasuredError(_NOT_YET.format(what="memory", when=self._when()))
        reading, layers = self._memory
        return reading.table(layers.names)

    def times(self) -> TimesTable:
        """Return the newest table. Raises NotMeasuredError if there is none."""
        if self._times is None:
            raise NotMeasuredError(_NOT_YET.format(what="time", when=self._when()))
        reading, layers = self._times
        return reading.table(layers.names)

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Start measuring if this step is chosen."""
        self._step, self._own_time_s = step, 0.0
        if self._pending:
            with self._closed_on_error():
                self._deliver()
        due = self._schedule.is_due(step, is_observed=is_observed)
        self._is_measured = self._is_enabled and (due or self._limit_bytes is not None)
        if self._is_measured:
            with self._closed_on_error():
                self._begin_to_measure()

    def _begin_to_measure(self) -> None:
        began_s = time.perf_counter()
        is_first = self._probe is None
        if self._next is not None:
            self._replace_probe(*self._next)
        if self._probe is not None:
            before = self._probe.owned.optimizer_state(self._optimizers())
            self._optimizer_before_bytes = sum(before.values())
            # A graph compiled without hooks would be recompiled with them: only allowed at the start.
            can_hook = is_first or self._probe.is_hooked or not has_compiled()
            self._probe.begin(clock_for(self._machine.device), can_hook=can_hook)
        self._own_time_s += time.perf_counter() - began_s

    def before_optimizer(self, _optimizer: Optimizer) -> None:
        """Record the start of the optimizer step and the existing gradients."""
        if self._is_measured and self._probe is not None:
            self._probe.begin_optimizer()

    def after_optimizer(self, _optimizer: Optimizer) -> None:
        """Record the end of the optimizer step."""
        if self._is_measured and self._probe is not None:
            self._probe.end_optimizer()

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:
        """Complete the readings of the step."""
        began_s = time.perf_counter()
        if self._is_measured and self._probe is not None:
            with self._closed_on_error():
                self._finish(self._probe, step, is_observed=is_observed)
        after_s = time.perf_counter() - began_s
        self._schedule.record(
            step,
            step_time_s + after_s,
            self._own_time_s + after_s,
            was_measured=self._is_measured,
            was_observed=is_observed,
        )
        if self._is_measured or step % _REPORT_EVERY == 0:
            self._set_aside(self._schedule.cost())
        self._is_measured = False
        if not self._pending and self._limit_bytes is None:
            self.rest(self._schedule.looks_from if self._is_enabled else math.inf)
            if self._schedule.is_asked:
                self.wake()

    def _finish(self, probe: Probe, step: int, *, is_observed: bool) -> None:
        watch = probe.end()
        self._report_memory(self._read(step))
        if not has_compiled():  # compiled graphs have guards on the hooks
            probe.remove()
        if watch is not None:
            self._own_time_s += watch.clock.excluded_s
            self._pending.append(_PendingTimes(step, self._layers, watch, is_observed))
        self._deliver()

    def close(self) -> None:
        """Remove the hooks."""
        self._is_measured = False
        if self._probe is not None:
            self._probe.end()
            self._probe.remove()
            self._probe = None
        self._next = None

    def oom_text(self, error: BaseException) -> str:
        """Return the report of an out-of-memory error as text, and report the memory in use now."""
        frames = frames_of(error)
        names = {id(ref()): name for ref, name in zip(self._modules, self._layers.names, strict=False)}
        if self._is_measured and self._probe is not None:
            self._probe.count_graph(local_tensors(frames))
            self._report_memory(self._read(self._step))
        table, inputs, types = None, {}, {}
        backward_layer = None
        if self._probe is not None and (layer := self._probe.layer_in_backward()) >= 0:
            backward_layer = self._layers.names[layer]
        if self._memory is not None:
            reading, layers = self._memory
            table = reading.table(layers.names)
            types = dict(zip(layers.names, layers.types, strict=True))
            inputs = {layers.names[i]: size for i, size in reading.input_bytes.items()}
        place = oom_location(frames, lambda module: names.get(id(module)), backward_layer)
        return oom_report(error, place, table, types, inputs)

    def _when(self) -> str:
        if not self._is_enabled:
            return "measuring failed and is switched off; see scope.faults"
        if self._schedule.next_step == self._step:
            return f"step {self._step}, now in progress, is the first measured step"
        return f"the next measured step is {self._schedule.next_step}"

    def _replace_probe(self, probe: Probe, machine: SystemMemory, layers: MeasuredLayers) -> None:
        if self._probe is not None:
            self._probe.remove()
        self._probe, self._machine, self._layers, self._next = probe, machine, layers, None

    def _read(self, step: int) -> MemoryReading:
        probe = self._probe
        if probe is None:
            raise RuntimeError("no model to measure")
        self._machine.open()
        owned_memory = probe.owned
        owned = OwnedBytes(
            parameters=owned_memory.parameters(),
            buffers=owned_memory.buffers(),
            gradients=owned_memory.gradients(),
            optimizer=owned_memory.optimizer_state(self._optimizers()),
        )
        machine = self._machine.numbers()
        self._machine.close()
        return memory_reading(
            step,
            self._layers.names,
            peak=probe.peak,
            called=probe.called,
            threads=probe.threads,
            layer_marks=probe.layer_marks,
            owned=owned,
            optimizer_before_bytes=self._optimizer_before_bytes,
            machine=machine,
            is_of_device=self._machine.is_of_device,
        )

    def _report_memory(self, reading: MemoryReading) -> None:
        self._memory = reading, self._layers
        self._on_memory(reading, self._layers)

    def _deliver(self) -> None:
        """Report the times that have arrived from the device, oldest first."""
        while self._pending and self._pending[0].watch.is_ready():
            pending = self._pending.pop(0)
            reading = times_reading(
                pending.step, pending.layers.names, pending.watch, is_observed=pending.is_observed
            )
            self._times = reading, pending.layers
            self._on_times(reading, pending.layers)

    def _enforce(self) -> None:
        """Raise OutOfMemoryError if more memory is in use than `memory_limit_bytes` allows."""
        limit = self._limit_bytes
        if limit is None or not self._is_measured:
            return
        held = self._machine.held_bytes()
        if held is not None and held > limit:
            raise torch.OutOfMemoryError(_LIMIT.format(held=held, limit=limit))

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """Remove the hooks on an error; the engine then switches this plugin off."""
        try:
            yield
        except Exception:
            self.close()
            raise

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            with hidden_from_modes():
                work()
        except Exception as error:  # noqa: BLE001 - an error in gradscope must not stop the training
            self._is_enabled = False
            self.close()
            self._faults.report(self.name, error, "This plugin is switched off.")


def _device_of(layers: Sequence[LayerInfo]) -> torch.device:
    """Return the device of the first parameter, or the CPU if there are no parameters."""
    parameters = (p for layer in layers for p in layer.parameters.values())
    first = next(parameters, None)
    return first.device if first is not None else torch.device("cpu")
