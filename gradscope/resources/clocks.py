"""Two clocks: the host's, and a CUDA device's, whose marks are read when they have come.

Work on a device is only launched by the host: there a mark is an event in the stream, and what lies
between two of them is read a step later, without anybody waiting.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import torch

__all__ = ["Clock", "DeviceClock", "HostClock", "Mark", "clock_for"]

Mark = TypeVar("Mark")


class Clock(ABC, Generic[Mark]):
    """Makes marks and tells the seconds between two. `name` says whose time it is.

    `excluded_s` is the host's time that measuring itself took.
    """

    name: str

    def __init__(self) -> None:
        self.excluded_s = 0.0
        self._still_s: float | None = None

    @abstractmethod
    def mark(self) -> Mark:
        """Return a mark of now."""

    @abstractmethod
    def seconds(self, begin: Mark, end: Mark) -> float:
        """Return the time between two marks that have come."""

    @abstractmethod
    def is_ready(self, mark: Mark) -> bool:
        """Whether a mark can be read without waiting."""

    def pause(self) -> None:
        """Let no time pass for the host's marks until `resume`: gradscope's own work is not measured."""
        self._still_s = time.perf_counter()

    def resume(self) -> None:
        """Let time pass again, and count what has passed meanwhile as ours."""
        if self._still_s is not None:
            self.excluded_s += time.perf_counter() - self._still_s
            self._still_s = None


class HostClock(Clock[float]):
    """The host's clock."""

    name = "host"

    def mark(self) -> float:
        """Return seconds, of which only differences mean anything."""
        now_s = time.perf_counter() if self._still_s is None else self._still_s
        return now_s - self.excluded_s

    def seconds(self, begin: float, end: float) -> float:
        """Return the difference."""
        return end - begin

    def is_ready(self, _mark: float) -> bool:
        """Say yes: the host knows its own time."""
        return True


class TimingEvent(Protocol):
    """What is used of `torch.cuda.Event(enable_timing=True)`."""

    def record(self) -> object:
        """Lay it into the current stream."""

    def query(self) -> bool:
        """Whether the device has passed it."""

    def elapsed_time(self, end: "TimingEvent", /) -> float:
        """Return the milliseconds to another."""


class DeviceClock(Clock[TimingEvent]):
    """A CUDA device's clock, read by events in its streams. Nothing ever waits for one."""

    name = "device"

    def __init__(self, make_event: Callable[[], TimingEvent] | None = None) -> None:
        super().__init__()
        self._make_event = make_event or _cuda_event

    def mark(self) -> TimingEvent:
        """Lay an event into the current stream."""
        event = self._make_event()
        event.record()
        return event

    def seconds(self, begin: TimingEvent, end: TimingEvent) -> float:
        """Return what the device took from one event to the other."""
        return begin.elapsed_time(end) / 1e3

    def is_ready(self, mark: TimingEvent) -> bool:
        """Whether the device has passed the event."""
        return mark.query()


def _cuda_event() -> TimingEvent:
    event: TimingEvent = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call, assignment]  # torch types a part of it
    return event


def clock_for(device: torch.device) -> HostClock | DeviceClock:
    """Return the clock that tells when work of a device is done.

    Other accelerators than CUDA have none here: the host's clock measures only the time of launching.
    """
    return DeviceClock() if device.type == "cuda" else HostClock()
