"""Where memory and time go, layer by layer: measured in chosen steps, changing nothing."""

from gradscope.resources.clocks import DeviceClock, HostClock, clock_for
from gradscope.resources.oom_report import (
    Place,
    frames_of,
    is_out_of_memory,
    local_tensors,
    oom_report,
    place_of,
)
from gradscope.resources.owned_memory import OwnedMemory
from gradscope.resources.probe import Moment, Probe
from gradscope.resources.readings import (
    MemoryReading,
    Owned,
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
    "MemoryReading",
    "Moment",
    "Owned",
    "OwnedMemory",
    "Place",
    "Probe",
    "Stopwatch",
    "SystemMemory",
    "TimesReading",
    "clock_for",
    "frames_of",
    "is_out_of_memory",
    "local_tensors",
    "memory_reading",
    "oom_report",
    "place_of",
    "times_reading",
]
