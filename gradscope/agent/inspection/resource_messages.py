"""Builds the messages with measured memory and times."""

from dataclasses import dataclass

from gradscope.protocol import Hello, Memory, Times
from gradscope.protocol.bodies import pack_memory, pack_times
from gradscope.resources import MemoryReading, TimesReading

__all__ = ["MeasuredLayers", "memory_message", "times_message"]


@dataclass(frozen=True, slots=True)
class MeasuredLayers:
    """The layers that the rows of a reading refer to. `revision` is the revision of their manifest."""

    names: tuple[str, ...]
    types: tuple[str, ...]
    revision: int


def memory_message(
    hello: Hello, time_s: float, reading: MemoryReading, layers: MeasuredLayers
) -> Memory:
    """Return the message with the memory of a step."""
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


def times_message(hello: Hello, time_s: float, reading: TimesReading, layers: MeasuredLayers) -> Times:
    """Return the message with the times of a step."""
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
