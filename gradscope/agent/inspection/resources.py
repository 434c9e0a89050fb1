"""Measuring memory and time in chosen steps of a run, and telling of it."""

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

from gradscope.agent.commands.queue import Prepared, QueuedCommand
from gradscope.agent.run.faults import Faults
from gradscope.agent.step.plugins import StepPlugin
from gradscope.columns import MemoryTable, TimesTable
from gradscope.errors import NotMeasuredError
from gradscope.hooks import LayerInfo, has_compiled, hidden_from_modes
from gradscope.protocol import Command
from gradscope.resources import (
    MeasuringSchedule,
    MemoryReading,
    Owned,
    Probe,
    Stopwatch,
    SystemMemory,
    TimesReading,
    clock_for,
    frames_of,
    local_tensors,
    memory_reading,
    oom_report,
    place_of,
    times_reading,
)

__all__ = ["MeasuredLayers", "ResourcePlugin"]

_NOT_YET: Final = (
    "no step's {what} was measured yet: {when}. scope.measure_now() has the next step measured"
)
_TOLD_EVERY: Final = 16
"""So often the cost is told anew, since the training's pace may have changed."""

_LIMIT: Final = (
    "gradscope: {held} bytes are held, above the limit of {limit} bytes that "
    "attach(memory_limit_bytes=…) has set"
)


@dataclass(frozen=True, slots=True)
class MeasuredLayers:
    """The layers that a reading's rows speak of: those of the manifest's `revision`."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class _Waiting:
    step: int
    layers: MeasuredLayers
    watch: Stopwatch[Any]  # Any: of whichever clock
    is_observed: bool


class ResourcePlugin(StepPlugin):
    """Measures the memory and the time of some steps. It holds the model, and optimizers, weakly.

    optimizers: gives the model's. on_memory, on_times: take what was measured, as soon as it is there.
    set_aside: is told the fraction of the step time that measuring costs. limit_bytes: above it an
    OutOfMemoryError is raised where a layer is left, as an allocator would; every step is measured,
    so that it can be told who held what.
    """

    name = "measuring memory and time"
    needs_observed = True

    def __init__(
        self,
        *,
        cadence: MeasuringSchedule,
        faults: Faults,
        optimizers: Callable[[], Iterable[Optimizer]],
        on_memory: Callable[[MemoryReading, MeasuredLayers], None],
        on_times: Callable[[TimesReading, MeasuredLayers], None],
        set_aside: Callable[[float], None],
        limit_bytes: int | None,
    ) -> None:
        self._cadence = cadence
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
        self._waiting: list[_Waiting] = []
        self._memory: tuple[MemoryReading, MeasuredLayers] | None = None
        self._times: tuple[TimesReading, MeasuredLayers] | None = None
        self._step = 0
        self._is_able = True
        self._is_measured = False
        self._aside_s = 0.0

    def look_at(self, layers: Sequence[LayerInfo], revision: int) -> None:
        """Measure these layers from the next step on."""
        names = tuple(layer.name for layer in layers)
        types = tuple(type(layer.module).__name__ for layer in layers)
        machine = SystemMemory(_device_of(layers))
        limit = self._enforce if self._limit_bytes is not None else None
        probe = Probe(layers, machine, self._guard, limit)
        self._next = probe, machine, MeasuredLayers(names, types, revision)
        self._modules = [weakref.ref(layer.module) for layer in layers]

    def ask_now(self) -> None:
        """Have the next step measured, whatever it costs."""
        self._cadence.ask_now()
        self.wake()

    def prepare_measure(self, command: Command) -> Prepared:  # noqa: ARG002 - one shape for all
        """Return what has the next step measured: a viewer asks for it."""

        def apply(turn: QueuedCommand) -> None:
            self.ask_now()
            turn.done(turn.step)

        return apply

    def memory(self) -> MemoryTable:
        """Return the newest table. Raises NotMeasuredError while there is none."""
        if self._memory is None:
            raise NotMeasuredError(_NOT_YET.format(what="memory", when=self._when()))
        reading, layers = self._memory
        return reading.table(layers.names)

    def times(self) -> TimesTable:
        """Return the newest table. Raises NotMeasuredError while there is none."""
        if self._times is None:
            raise NotMeasuredError(_NOT_YET.format(what="time", when=self._when()))
        reading, layers = self._times
        return reading.table(layers.names)

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Begin to measure where the step is chosen."""
        self._step, self._aside_s = step, 0.0
        if self._waiting:
            with self._closed_on_error():
                self._deliver()
        due = self._cadence.is_due(step, is_observed=is_observed)
        self._is_measured = self._is_able and (due or self._limit_bytes is not None)
        if self._is_measured:
            with self._closed_on_error():
                self._begin_to_measure()

    def _begin_to_measure(self) -> None:
        began_s = time.perf_counter()
        is_first = self._probe is None
        if self._next is not None:
            self._change_over(*self._next)
        if self._probe is not None:
            before = self._probe.holdings.optimizer_state(self._optimizers())
            self._optimizer_before_bytes = sum(before.values())
            # What was compiled without hooks would be compiled anew with them: only as one attaches.
            can_hook = is_first or self._probe.is_hooked or not has_compiled()
            self._probe.begin(clock_for(self._machine.device), can_hook=can_hook)
        self._aside_s += time.perf_counter() - began_s

    def before_optimizer(self, _optimizer: Optimizer) -> None:
        """Note that an optimizer begins, and what gradients there are."""
        if self._is_measured and self._probe is not None:
            self._probe.turn_to_optimizer()

    def after_optimizer(self, _optimizer: Optimizer) -> None:
        """Note that it is done."""
        if self._is_measured and self._probe is not None:
            self._probe.turn_from_optimizer()

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:
        """Put together what was measured."""
        began_s = time.perf_counter()
        if self._is_measured and self._probe is not None:
            with self._closed_on_error():
                self._put_together(self._probe, step, is_observed=is_observed)
        after_s = time.perf_counter() - began_s
        self._cadence.record(
            step,
            step_time_s + after_s,
            self._aside_s + after_s,
            was_measured=self._is_measured,
            was_observed=is_observed,
        )
        if self._is_measured or step % _TOLD_EVERY == 0:
            self._set_aside(self._cadence.cost())
        self._is_measured = False
        if not self._waiting and self._limit_bytes is None:
            self.rest(self._cadence.looks_from if self._is_able else math.inf)
            if self._cadence.is_asked:
                self.wake()

    def _put_together(self, probe: Probe, step: int, *, is_observed: bool) -> None:
        watch = probe.end()
        self._tell_memory(self._read(step))
        if not has_compiled():  # what is compiled guards that the hooks are there
            probe.remove()
        if watch is not None:
            self._aside_s += watch.clock.aside_s
            self._waiting.append(_Waiting(step, self._layers, watch, is_observed))
        self._deliver()

    def close(self) -> None:
        """Take the hooks off."""
        self._is_measured = False
        if self._probe is not None:
            self._probe.end()
            self._probe.remove()
            self._probe = None
        self._next = None

    def account_of(self, error: BaseException) -> str:
        """Return what is to be told of memory that ran out, in lines; and tell of the memory now."""
        frames = frames_of(error)
        names = {id(ref()): name for ref, name in zip(self._modules, self._layers.names, strict=False)}
        if self._is_measured and self._probe is not None:
            self._probe.look_at(local_tensors(frames))
            self._tell_memory(self._read(self._step))
        table, inputs, types = None, {}, {}
        backward_layer = None
        if self._probe is not None and (layer := self._probe.layer_in_backward()) >= 0:
            backward_layer = self._layers.names[layer]
        if self._memory is not None:
            reading, layers = self._memory
            table = reading.table(layers.names)
            types = dict(zip(layers.names, layers.types, strict=True))
            inputs = {layers.names[i]: size for i, size in reading.input_bytes.items()}
        place = place_of(frames, lambda module: names.get(id(module)), backward_layer)
        return oom_report(error, place, table, types, inputs)

    def _when(self) -> str:
        if not self._is_able:
            return "measuring failed and is switched off, see scope.faults"
        if self._cadence.next_step == self._step:
            return (
                f"the step in progress, {self._step}, is the first, and numbers are there when it ends"
            )
        return f"the next is due in step {self._cadence.next_step}"

    def _change_over(self, probe: Probe, machine: SystemMemory, layers: MeasuredLayers) -> None:
        if self._probe is not None:
            self._probe.remove()
        self._probe, self._machine, self._layers, self._next = probe, machine, layers, None

    def _read(self, step: int) -> MemoryReading:
        probe = self._probe
        if probe is None:
            raise RuntimeError("there is no model to be read")
        self._machine.open()
        holdings = probe.holdings
        owned = Owned(
            parameters=holdings.parameters(),
            buffers=holdings.buffers(),
            gradients=holdings.gradients(),
            optimizer=holdings.optimizer_state(self._optimizers()),
        )
        machine = self._machine.numbers()
        self._machine.close()
        return memory_reading(
            step,
            self._layers.names,
            moment=probe.moment,
            called=probe.called,
            threads=probe.threads,
            gauges=probe.gauges,
            owned=owned,
            optimizer_before_bytes=self._optimizer_before_bytes,
            machine=machine,
            is_of_device=self._machine.is_of_device,
        )

    def _tell_memory(self, reading: MemoryReading) -> None:
        self._memory = reading, self._layers
        self._on_memory(reading, self._layers)

    def _deliver(self) -> None:
        """Hand out the times that have come from the device, the oldest first."""
        while self._waiting and self._waiting[0].watch.is_ready():
            waiting = self._waiting.pop(0)
            reading = times_reading(
                waiting.step, waiting.layers.names, waiting.watch, is_observed=waiting.is_observed
            )
            self._times = reading, waiting.layers
            self._on_times(reading, waiting.layers)

    def _enforce(self) -> None:
        """Raise as an allocator would, where more is held than the person who attached allows."""
        limit = self._limit_bytes
        if limit is None or not self._is_measured:
            return
        held = self._machine.held_bytes()
        if held is not None and held > limit:
            raise torch.OutOfMemoryError(_LIMIT.format(held=held, limit=limit))

    @contextmanager
    def _closed_on_error(self) -> Iterator[None]:
        """Take the hooks off where something goes wrong: the part is switched off then."""
        try:
            yield
        except Exception:
            self.close()
            raise

    def _guard(self, work: Callable[[], None]) -> None:
        try:
            with hidden_from_modes():
                work()
        except Exception as error:  # noqa: BLE001 - ours must not become the training's
            self._is_able = False
            self.close()
            self._faults.report(self.name, error, "This part is switched off.")


def _device_of(layers: Sequence[LayerInfo]) -> torch.device:
    """Return the device of the first parameter; a model without any is on the host."""
    parameters = (p for layer in layers for p in layer.parameters.values())
    first = next(parameters, None)
    return first.device if first is not None else torch.device("cpu")
