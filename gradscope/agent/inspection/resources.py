"""Measures memory and time in chosen steps of a run and reports them to viewers."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch.optim import Optimizer

from gradscope.agent.commands.queue import Boundary, Prepared
from gradscope.agent.inspection.resource_messages import MeasuredLayers, resource_message
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.columns import MemoryTable, TimesTable
from gradscope.errors import NotMeasuredError
from gradscope.hooks import LayerInfo, frames_of, has_compiled, hidden_from_modes
from gradscope.paths import recordings_dir
from gradscope.protocol import Command
from gradscope.resources import (
    MeasuringSchedule,
    OwnedBytes,
    Probe,
    Stopwatch,
    SystemMemory,
    clock_for,
    local_tensors,
    memory_table,
    oom_location,
    oom_report,
    times_table,
)

__all__ = ["ResourcePlugin"]

_NOT_YET: Final = (
    "no {what} has been measured yet: {when}. Call scope.measure_now() to measure the next step"
)
_REPORT_EVERY: Final = 16
"""The cost is reported every 16 steps, because the step time of the training may have changed."""

_LIMIT: Final = (
    "gradscope: {held} bytes are in use, above the limit of {limit} bytes set with "
    "attach(memory_limit_bytes=…)"
)

_SNAPSHOT: Final = (
    "the state of the CUDA allocator is in {path}: open it at https://docs.pytorch.org/memory_viz; with "
    "torch.cuda.memory._record_memory_history() at the start of the script it also has the stack of each block"
)


@dataclass(frozen=True, slots=True)
class _PendingTimes:
    step: int
    layers: MeasuredLayers
    watch: Stopwatch
    is_observed: bool


class ResourcePlugin(StepPlugin):
    """Measures memory and time of some steps. It holds weak references to the model and optimizers.

    If `memory_limit_bytes` is set, every step is measured, and an OutOfMemoryError is raised when a layer
    returns and more memory is in use, as an allocator would do. The error names the largest holders.
    """

    name = "measuring memory and time"
    needs_observed = True

    def __init__(self, run: RunContext, engine: StepEngine) -> None:
        settings = run.settings
        self._run = run
        self._engine = engine
        self._schedule = MeasuringSchedule(
            run.sampler.budget, settings.start_step, every=settings.resources_every
        )
        self._limit_bytes = settings.memory_limit_bytes
        self._layers = MeasuredLayers((), (), -1)
        self._machine: SystemMemory | None = None
        self._probe: Probe | None = None
        self._optimizer_before_bytes = 0
        self._pending: list[_PendingTimes] = []
        self._memory: MemoryTable | None = None
        self._times: TimesTable | None = None
        self._types: dict[str, str] = {}
        self._inputs: dict[str, int] = {}
        self._step = 0
        self._is_enabled = True
        self._is_measured = False
        self._own_time_s = 0.0

    def request_now(self) -> None:
        """Measure the next step, regardless of the budget."""
        self._schedule.ask_now()
        self._run.plan_again()

    def commands(self) -> dict[str, Callable[[Command], Prepared]]:
        """Return the function that validates a viewer's command to measure the next step."""
        return {"measure": self._prepare_measure}

    def _prepare_measure(self, command: Command) -> Prepared:  # noqa: ARG002 - the signature of all command functions

        def apply(command_slot: Boundary) -> None:
            self.request_now()
            command_slot.done(command_slot.step)

        return apply

    def memory(self) -> MemoryTable:
        """Return the newest memory table. Raises NotMeasuredError if nothing was measured yet."""
        if self._memory is None:
            raise NotMeasuredError(_NOT_YET.format(what="memory", when=self._when()))
        return self._memory

    def times(self) -> TimesTable:
        """Return the newest table of times. Raises NotMeasuredError if nothing was measured yet."""
        if self._times is None:
            raise NotMeasuredError(_NOT_YET.format(what="time", when=self._when()))
        return self._times

    def next_active_step(self, step: int) -> int | None:
        """Return the next step in which to measure, or to begin estimating the usual step time."""
        if not self._is_enabled:
            return None
        is_busy = self._is_measured or bool(self._pending) or self._schedule.is_asked
        if is_busy or self._limit_bytes is not None:
            return step
        return max(step, self._schedule.baseline_from)

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
        if self._layers.revision != self._engine.tracker.revision:
            self._follow_layers()
        if self._probe is not None and self._machine is not None:
            before = self._probe.owned.optimizer_state(self._engine.optimizers())
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
            self._run.sampler.set_aside(self._schedule.cost())
        self._is_measured = False

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

    def oom_text(self, error: BaseException) -> str:
        """Return a report of an out-of-memory error as text, and send the memory in use to viewers."""
        frames = frames_of(error)
        names = {id(module): name for name, module in self._engine.tracker.modules().items()}
        if self._is_measured and self._probe is not None:
            self._probe.count_graph(local_tensors(frames))
            self._report_memory(self._read(self._step))
        backward_layer = None
        if self._probe is not None and (layer := self._probe.layer_in_backward()) >= 0:
            backward_layer = self._layers.names[layer]
        place = oom_location(frames, lambda module: names.get(id(module)), backward_layer)
        text = oom_report(error, place, self._memory, self._types, self._inputs)
        path = self._save_allocator_snapshot()
        return text if path is None else f"{text}\n{_SNAPSHOT.format(path=path)}"

    def _save_allocator_snapshot(self) -> Path | None:
        """Write the state of the CUDA allocator next to the recordings; None without CUDA, or if that fails."""
        if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch does not annotate it
            return None
        path = recordings_dir() / f"{self._run.hello.run}.memory.pickle"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.cuda.memory._dump_snapshot(str(path))  # type: ignore[no-untyped-call]  # noqa: SLF001 - the documented name
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not hide the training's
            self._run.faults.report("the allocator's snapshot", error, "The event has the other facts.")
            return None
        return path

    def _when(self) -> str:
        if not self._is_enabled:
            return "measuring failed and is switched off; see scope.faults"
        if self._schedule.next_step == self._step:
            return f"step {self._step}, now in progress, is the first measured step"
        return f"the next measured step is {self._schedule.next_step}"

    def _follow_layers(self) -> None:
        """Update the measured layers to the current layers of the model."""
        tracker = self._engine.tracker
        layers = tracker.layers()
        if self._probe is not None:
            self._probe.remove()
        machine = self._machine = SystemMemory(_device_of(layers))
        limit = self._enforce if self._limit_bytes is not None else None
        self._probe = Probe(layers, machine, self._guard, limit)
        names = tuple(layer.name for layer in layers)
        types = tuple(type(layer.module).__name__ for layer in layers)
        self._layers = MeasuredLayers(names, types, tracker.revision)

    def _read(self, step: int) -> MemoryTable:
        probe, machine = self._probe, self._machine
        if probe is None or machine is None:
            raise RuntimeError("no model to measure")
        machine.open()
        owned_memory = probe.owned
        owned = OwnedBytes(
            parameters=owned_memory.parameters(),
            buffers=owned_memory.buffers(),
            gradients=owned_memory.gradients(),
            optimizer=owned_memory.optimizer_state(self._engine.optimizers()),
        )
        numbers = machine.numbers()
        machine.close()
        return memory_table(
            step,
            self._layers.names,
            peak=probe.peak,
            called=probe.called,
            threads=probe.threads,
            layer_marks=probe.layer_marks,
            owned=owned,
            optimizer_before_bytes=self._optimizer_before_bytes,
            machine=numbers,
            is_of_device=machine.is_of_device,
        )

    def _report_memory(self, table: MemoryTable) -> None:
        layers, probe = self._layers, self._probe
        self._memory = table
        self._types = dict(zip(layers.names, layers.types, strict=True))
        inputs = probe.layer_marks.inputs if probe is not None else {}
        self._inputs = {layers.names[i]: size for i, size in inputs.items()}
        self._send(table, layers.revision)

    def _send(self, table: MemoryTable | TimesTable, revision: int) -> None:
        message = partial(resource_message, self._run.hello, time.time(), table, revision)
        self._run.publisher.put(message)

    def _deliver(self) -> None:
        """Report the times that have been copied from the device, oldest first."""
        while self._pending and self._pending[0].watch.is_ready():
            pending = self._pending.pop(0)
            self._times = times_table(
                pending.step, pending.layers.names, pending.watch, is_observed=pending.is_observed
            )
            self._send(self._times, pending.layers.revision)

    def _enforce(self) -> None:
        """Raise OutOfMemoryError if the memory in use exceeds `memory_limit_bytes`."""
        limit, machine = self._limit_bytes, self._machine
        if limit is None or machine is None or not self._is_measured:
            return
        held = machine.held_bytes()
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
            self._run.faults.report(self.name, error, "This plugin is switched off.")


def _device_of(layers: Sequence[LayerInfo]) -> torch.device:
    parameters = (p for layer in layers for p in layer.parameters.values())
    first = next(parameters, None)
    return first.device if first is not None else torch.device("cpu")
