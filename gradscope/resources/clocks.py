"""Clocks of the host and of a CUDA device. A device's marks are read after the device has reached them.

The host only launches work on a device. So a mark is an event in the device's stream, and the time between two
events is read one step later, without waiting.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import torch

__all__ = ["Clock", "DeviceClock", "HostClock", "Mark", "clock_for"]

Mark = TypeVar("Mark")


class Clock(ABC, Generic[Mark]):
    """Creates marks and returns the seconds between two marks. `name` is "host" or "device".

    `excluded_s` is the host time that the measurement itself took.
    """

    name: str

    def __init__(self) -> None:
        self.excluded_s = 0.0
        self._paused_s: float | None = None

    @abstractmethod
    def mark(self) -> Mark:
        """Return a mark for the present time."""

    @abstractmethod
    def seconds(self, begin: Mark, end: Mark) -> float:
        """Return the seconds between two marks. Both must be ready."""

    @abstractmethod
    def is_ready(self, mark: Mark) -> bool:
        """Return whether a mark can be read without waiting."""

    def pause(self) -> None:
        """Stop the host's time until `resume`, so that gradscope's own work is not counted."""
        self._paused_s = time.perf_counter()

    def resume(self) -> None:
        """Continue the host's time, and add the duration of the pause to `excluded_s`."""
        if self._paused_s is not None:
            self.excluded_s += time.perf_counter() - self._paused_s
            self._paused_s = None


class HostClock(Clock[float]):
    """The host's clock."""

    name = "host"

    def mark(self) -> float:
        """Return seconds since an arbitrary time, without pauses."""
        now_s = time.perf_counter() if self._paused_s is None else self._paused_s
        return now_s - self.excluded_s

    def seconds(self, begin: float, end: float) -> float:
        """Return the seconds from `begin` to `end`."""
        return end - begin

    def is_ready(self, _mark: float) -> bool:
        """Return True: a host time can always be read."""
        return True


class TimingEvent(Protocol):
    """The methods of `torch.cuda.Event(enable_timing=True)` that are used."""

    def record(self) -> object:
        """Record the event in the current stream."""

    def query(self) -> bool:
        """Return whether the device has reached the event."""

    def elapsed_time(self, end: "TimingEvent", /) -> float:
        """Return the milliseconds from this event to `end`."""


class DeviceClock(Clock[TimingEvent]):
    """A CUDA device's clock, by events in its streams. It never waits for an event."""

    name = "device"

    def __init__(self, make_event: Callable[[], TimingEvent] | None = None) -> None:
        super().__init__()
        self._make_event = make_event or _cuda_event

    def mark(self) -> TimingEvent:
        """Record an event in the current stream, and return it."""
        event = self._make_event()
        event.record()
        return event

    def seconds(self, begin: TimingEvent, end: TimingEvent) -> float:
        """Return the device's time from one event to the other, in seconds."""
        return begin.elapsed_time(end) / 1e3

    def is_ready(self, mark: TimingEvent) -> bool:
        """Return whether the device has reached the event."""
        return mark.query()


def _cuda_event() -> TimingEvent:
    event: TimingEvent = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call, assignment]  # torch annotates only a part of it
    return event


def clock_for(device: torch.device) -> HostClock | DeviceClock:
    """Return the clock for work on a device.

    For accelerators other than CUDA this is the host's clock, which measures only the launch of the work.
    """
    return DeviceClock() if device.type == "cuda" else HostClock()
