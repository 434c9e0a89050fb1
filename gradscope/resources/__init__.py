"""Measures memory and time of each layer in chosen steps, without changing the training."""

from gradscope.resources.clocks import DeviceClock, HostClock, clock_for
from gradscope.resources.oom_report import (
    OomLocation,
    is_out_of_memory,
    local_tensors,
    oom_location,
    oom_report,
)
from gradscope.resources.owned_memory import OwnedMemory
from gradscope.resources.probe import MemoryPeak, Probe
from gradscope.resources.readings import (
    MemoryReading,
    OwnedBytes,
    TimesReading,
    memory_reading,
    times_reading,
)
from gradscope.resources.schedule import MeasuringSchedule
from gradscope.resources.stopwatch import PHASES, Stopwatch
from gradscope.resources.system_memory import SystemMemory

__all__ = [
    "PHASES",
    "DeviceClock",
    "HostClock",
    "MeasuringSchedule",
    "MemoryPeak",
    "MemoryReading",
    "OomLocation",
    "OwnedBytes",
    "OwnedMemory",
    "Probe",
    "Stopwatch",
    "SystemMemory",
    "TimesReading",
    "clock_for",
    "is_out_of_memory",
    "local_tensors",
    "memory_reading",
    "oom_location",
    "oom_report",
    "times_reading",
]
