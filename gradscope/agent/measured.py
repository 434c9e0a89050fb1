"""`Measured`: what a script can ask of its own run's memory and time."""

import logging
import time
from abc import ABC, abstractmethod
from functools import partial

from gradscope.agent.inspection.resources import MeasuredLayers, ResourcePlugin
from gradscope.agent.link.publisher import Publisher
from gradscope.agent.run.faults import Faults
from gradscope.agent.run.settings import Settings
from gradscope.agent.step.engine import StepEngine
from gradscope.budget import Sampler
from gradscope.columns import MemoryTable, TimesTable
from gradscope.protocol import Hello, Memory, Times
from gradscope.protocol.bodies import pack_memory, pack_times
from gradscope.resources import MeasuringSchedule, MemoryReading, TimesReading, is_out_of_memory

__all__ = ["Measured"]

_log = logging.getLogger("gradscope")


class Measured(ABC):
    """The memory and the time of a Scope, layer by layer, as of the newest step that was measured."""

    _engine: StepEngine
    _resources: ResourcePlugin
    _publisher: Publisher | None
    _hello: Hello
    _faults: Faults

    def memory(self) -> MemoryTable:
        """Return where the memory went: `memory()["fc1"].saved_bytes`; `.total` with those below.

        Raises NotMeasuredError while no step was measured, and says when one will be.
        """
        return self._resources.memory()

    def times(self) -> TimesTable:
        """Return where the time went: `times()["fc1"].forward_s`, `.backward_s`, `.calls`, `.total`.

        Raises NotMeasuredError while no step was measured, and says when one will be.
        """
        return self._resources.times()

    def measure_now(self) -> None:
        """Have the next step measured, memory and time, whatever it costs."""
        self._resources.request_now()

    def _tell_exhaustion(self, error: BaseException) -> bool:
        """Tell of memory that ran out: who held it, what would help. False for any other error."""
        if not is_out_of_memory(error):
            return False
        text = self._resources.oom_text(error)
        _log.error("gradscope: %s", text)
        self._tell("error", "out-of-memory", text)
        return True

    @abstractmethod
    def _tell(self, level: str, code: str, text: str) -> None:
        """Tell the viewers of something that happened."""

    def _make_resources(self, sampler: Sampler, settings: Settings) -> ResourcePlugin:
        return ResourcePlugin(
            schedule=MeasuringSchedule(
                sampler.budget, settings.start_step, every=settings.resources_every
            ),
            faults=self._faults,
            optimizers=lambda: self._engine.optimizers(),  # noqa: PLW0108 - there is no engine yet
            on_memory=self._on_memory,
            on_times=self._on_times,
            set_aside=sampler.set_aside,
            limit_bytes=settings.memory_limit_bytes,
        )

    def _on_memory(self, reading: MemoryReading, layers: MeasuredLayers) -> None:
        if self._publisher is not None:
            self._publisher.put(partial(_memory_message, self._hello, time.time(), reading, layers))

    def _on_times(self, reading: TimesReading, layers: MeasuredLayers) -> None:
        if self._publisher is not None:
            self._publisher.put(partial(_times_message, self._hello, time.time(), reading, layers))


def _memory_message(
    hello: Hello, time_s: float, reading: MemoryReading, layers: MeasuredLayers
) -> Memory:
    columns, zero, body = pack_memory(reading.rows, len(layers.names))
    return Memory(
        run=hello.run,
        rank=hello.rank,
        step=reading.step,
        time_s=time_s,
        manifest_revision=layers.revision,
        rows=len(layers.names),
        columns=columns,
        zero=zero,
        balance=reading.balance,
        machine=reading.machine,
        notes=reading.notes,
        body=body,
    )


def _times_message(hello: Hello, time_s: float, reading: TimesReading, layers: MeasuredLayers) -> Times:
    columns, zero, body = pack_times(reading.rows, len(layers.names))
    return Times(
        run=hello.run,
        rank=hello.rank,
        step=reading.step,
        time_s=time_s,
        manifest_revision=layers.revision,
        rows=len(layers.names),
        columns=columns,
        zero=zero,
        phases_s=reading.phases_s,
        clock="device" if reading.clock == "device" else "host",
        is_observed=reading.is_observed,
        notes=reading.notes,
        body=body,
    )
