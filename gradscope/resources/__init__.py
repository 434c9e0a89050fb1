"""Where memory and time go, layer by layer: measured in chosen steps, changing nothing."""

from gradscope.resources.clocks import DeviceClock, HostClock, clock_for
from gradscope.resources.oom_report import (
    Place,
    account_of_exhaustion,
    frames_of,
    is_exhaustion,
    local_tensors,
    place_of,
)
from gradscope.resources.owned_memory import Holdings
from gradscope.resources.probe import Moment, Probe
from gradscope.resources.readings import (
    MemoryReading,
    Owned,
    TimesReading,
    memory_reading,
    times_reading,
)
from gradscope.resources.schedule import Cadence
from gradscope.resources.stopwatch import PHASES, Stopwatch
from gradscope.resources.system_memory import MachineMemory

__all__ = [
    "PHASES",
    "Cadence",
    "DeviceClock",
    "Holdings",
    "HostClock",
    "MachineMemory",
    "MemoryReading",
    "Moment",
    "Owned",
    "Place",
    "Probe",
    "Stopwatch",
    "TimesReading",
    "account_of_exhaustion",
    "clock_for",
    "frames_of",
    "is_exhaustion",
    "local_tensors",
    "memory_reading",
    "place_of",
    "times_reading",
]
