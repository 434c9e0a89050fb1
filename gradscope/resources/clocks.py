"""Clocks of the host and of a CUDA device. A device's marks are read after the device has reached them.

The host only launches work on a device. So a mark is an event in the device's stream, and the time between two
events is read one step later, without waiting.
"""

import time
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

__all__ = ["DeviceClock", "HostClock", "Mark", "clock_for"]

Mark: TypeAlias = Any
"""Seconds of the host's clock, or a `torch.cuda.Event(enable_timing=True)`."""


class HostClock:
    """The host's clock: it creates marks, and returns the seconds between two marks.

    `excluded_s` is the host time that the measurement itself took.
    """

    name = "host"

    def __init__(self) -> None:
        self.excluded_s = 0.0
        self._paused_s: float | None = None

    def mark(self) -> Mark:
        """Return seconds since an arbitrary time, without pauses."""
        now_s = time.perf_counter() if self._paused_s is None else self._paused_s
        return now_s - self.excluded_s

    def seconds(self, begin: Mark, end: Mark) -> float:
        """Return the seconds between two marks. Both must be ready."""
        return float(end - begin)

    def is_ready(self, mark: Mark) -> bool:  # noqa: ARG002 - that of a device needs it
        """Return whether a mark can be read without waiting."""
        return True

    def pause(self) -> None:
        """Stop the host's time until `resume`, so that gradscope's own work is not counted."""
        self._paused_s = time.perf_counter()

    def resume(self) -> None:
        """Continue the host's time, and add the duration of the pause to `excluded_s`."""
        if self._paused_s is not None:
            self.excluded_s += time.perf_counter() - self._paused_s
            self._paused_s = None


class DeviceClock(HostClock):
    """A CUDA device's clock, by events in its streams. It never waits for an event."""

    name = "device"

    def __init__(self, make_event: Callable[[], Mark] | None = None) -> None:
        super().__init__()
        self._make_event = make_event or (lambda: torch.cuda.Event(enable_timing=True))  # type: ignore[no-untyped-call]  # torch annotates only a part of it

    def mark(self) -> Mark:
        """Record an event in the current stream, and return it."""
        event = self._make_event()
        event.record()
        return event

    def seconds(self, begin: Mark, end: Mark) -> float:
        """Return the device's time from one event to the other, in seconds."""
        return float(begin.elapsed_time(end)) / 1e3

    def is_ready(self, mark: Mark) -> bool:
        """Return whether the device has reached the event."""
        return bool(mark.query())


def clock_for(device: torch.device) -> HostClock:
    """Return the clock for work on a device.

    For accelerators other than CUDA this is the host's clock, which measures only the launch of the work.
    """
    return DeviceClock() if device.type == "cuda" else HostClock()
