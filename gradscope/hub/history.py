"""The newest messages of one rank, kept for viewers that connect later. Bounded in number and bytes.

Steps and events are kept as the bytes that arrived. Scalars arrive in many small messages and are
merged into larger ones, so that a late viewer receives hundreds of messages instead of tens of
thousands.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

from gradscope.protocol import Scalars

__all__ = ["Parts", "RankHistory"]

Parts: TypeAlias = list[bytes]

STEP_LIMIT = 600
STEP_LIMIT_BYTES = 32 * 2**20
SCALARS_LIMIT_BYTES = 4 * 2**20
EVENT_LIMIT = 200
READING_LIMIT = 240
READING_LIMIT_BYTES = 8 * 2**20

_MERGED_LIMIT_BYTES = 64 * 1024


@dataclass(slots=True)
class RankHistory:
    """The newest steps, scalars, events and readings of memory and time of one rank."""

    _steps: deque[tuple[Parts, int]] = field(default_factory=deque)
    _steps_bytes: int = 0
    _scalars: deque[tuple[Scalars, int]] = field(default_factory=deque)
    _scalars_bytes: int = 0
    _events: deque[Parts] = field(default_factory=lambda: deque(maxlen=EVENT_LIMIT))

    _readings: deque[Parts] = field(default_factory=deque)
    _readings_bytes: int = 0

    def add_step(self, parts: Parts) -> None:
        """Store a step. Drop the oldest steps beyond 600 steps or 32 MB."""
        size = sum(map(len, parts))
        self._steps.append((parts, size))
        self._steps_bytes += size
        while len(self._steps) > STEP_LIMIT or (
            self._steps_bytes > STEP_LIMIT_BYTES and len(self._steps) > 1
        ):
            self._steps_bytes -= self._steps.popleft()[1]

    def add_scalars(self, message: Scalars, size_bytes: int) -> None:
        """Store scalars, merged into the newest message if both have the same names."""
        self._scalars_bytes += size_bytes
        if self._scalars:
            last, last_bytes = self._scalars[-1]
            together = last_bytes + size_bytes
            if last.values.keys() == message.values.keys() and together <= _MERGED_LIMIT_BYTES:
                self._scalars[-1] = _merge(last, message), together
                return
        self._scalars.append((message, size_bytes))
        while self._scalars_bytes > SCALARS_LIMIT_BYTES and len(self._scalars) > 1:
            self._scalars_bytes -= self._scalars.popleft()[1]

    def add_event(self, parts: Parts) -> None:
        """Store an event."""
        self._events.append(parts)

    def add_reading(self, parts: Parts) -> None:
        """Store a reading of memory or time. Drop the oldest beyond 240 readings or 8 MB."""
        self._readings.append(parts)
        self._readings_bytes += sum(map(len, parts))
        while len(self._readings) > READING_LIMIT or (
            self._readings_bytes > READING_LIMIT_BYTES and len(self._readings) > 2
        ):
            self._readings_bytes -= sum(map(len, self._readings.popleft()))

    def steps(self) -> Iterator[Parts]:
        """Iterate over the steps, oldest first."""
        return (parts for parts, _ in self._steps)

    def scalars(self) -> Iterator[Scalars]:
        """Iterate over the merged scalars, oldest first."""
        return (message for message, _ in self._scalars)

    def events(self) -> Iterator[Parts]:
        """Iterate over the events, oldest first."""
        return iter(self._events)

    def readings(self) -> Iterator[Parts]:
        """Iterate over the readings of memory and time, oldest first."""
        return iter(self._readings)


def _merge(first: Scalars, second: Scalars) -> Scalars:
    return Scalars(
        run=first.run,
        rank=first.rank,
        steps=first.steps + second.steps,
        times_s=first.times_s + second.times_s,
        values={name: values + second.values[name] for name, values in first.values.items()},
    )
