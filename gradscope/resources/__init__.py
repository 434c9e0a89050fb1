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
from gradscope.resources.readings import OwnedBytes, memory_table, times_table
from gradscope.resources.schedule import MeasuringSchedule
from gradscope.resources.stopwatch import PHASES, Stopwatch
from gradscope.resources.system_memory import SystemMemory

__all__ = [
    "PHASES",
    "DeviceClock",
    "HostClock",
    "MeasuringSchedule",
    "MemoryPeak",
    "OomLocation",
    "OwnedBytes",
    "OwnedMemory",
    "Probe",
    "Stopwatch",
    "SystemMemory",
    "clock_for",
    "is_out_of_memory",
    "local_tensors",
    "memory_table",
    "oom_location",
    "oom_report",
    "times_table",
]
