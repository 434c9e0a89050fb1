"""Clocks: the host's, and a CUDA device's, whose marks are read once the device has reached them.

The host only launches work on a device. So a mark is an event in the stream there, and the time between two events
is read one step later, without waiting.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import torch

__all__ = ["Clock", "DeviceClock", "HostClock", "Mark", "clock_for"]

Mark = TypeVar("Mark")


class Clock(ABC, Generic[Mark]):
    """Makes marks and returns the seconds between two. `name` is "host" or "device".

    `excluded_s` is the host's time that measuring itself took.
    """

    name: str

    def __init__(self) -> None:
        self.excluded_s = 0.0
        self._paused_s: float | None = None

    @abstractmethod
    def mark(self) -> Mark:
        """Return a mark of now."""

    @abstractmethod
    def seconds(self, begin: Mark, end: Mark) -> float:
        """Return the seconds between two marks that are ready."""

    @abstractmethod
    def is_ready(self, mark: Mark) -> bool:
        """Whether a mark can be read without waiting."""

    def pause(self) -> None:
        """Stop the host's time until `resume`: gradscope's own work is not counted."""
        self._paused_s = time.perf_counter()

    def resume(self) -> None:
        """Continue the host's time, and add the pause to `excluded_s`."""
        if self._paused_s is not None:
            self.excluded_s += time.perf_counter() - self._paused_s
            self._paused_s = None


class HostClock(Clock[float]):
    """The host's clock."""

    name = "host"

    def mark(self) -> float:
        """Return seconds since an arbitrary time."""
        now_s = time.perf_counter() if self._paused_s is None else self._paused_s
        return now_s - self.excluded_s

    def seconds(self, begin: float, end: float) -> float:
        """Return the difference."""
        return end - begin

    def is_ready(self, _mark: float) -> bool:
        """Return True."""
        return True


class TimingEvent(Protocol):
    """The methods of `torch.cuda.Event(enable_timing=True)` that are used."""

    def record(self) -> object:
        """Record it in the current stream."""

    def query(self) -> bool:
        """Whether the device has reached it."""

    def elapsed_time(self, end: "TimingEvent", /) -> float:
        """Return the milliseconds until another event."""


class DeviceClock(Clock[TimingEvent]):
    """A CUDA device's clock, by events in its streams. It never waits for one."""

    name = "device"

    def __init__(self, make_event: Callable[[], TimingEvent] | None = None) -> None:
        super().__init__()
        self._make_event = make_event or _cuda_event

    def mark(self) -> TimingEvent:
        """Record an event in the current stream."""
        event = self._make_event()
        event.record()
        return event

    def seconds(self, begin: TimingEvent, end: TimingEvent) -> float:
        """Return the device's time from one event to the other."""
        return begin.elapsed_time(end) / 1e3

    def is_ready(self, mark: TimingEvent) -> bool:
        """Whether the device has reached the event."""
        return mark.query()


def _cuda_event() -> TimingEvent:
    event: TimingEvent = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call, assignment]  # torch types a part of it
    return event


def clock_for(device: torch.device) -> HostClock | DeviceClock:
    """Return the clock for work on a device.

    For accelerators other than CUDA it is the host's clock, which measures only the launch of their work.
    """
    return DeviceClock() if device.type == "cuda" else HostClock()
