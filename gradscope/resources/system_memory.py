"""What the process and its device say of memory: counters that are read without waiting."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

__all__ = ["SystemMemory"]

_STATM: Final = "/proc/self/statm"
_RESIDENT_FIELD: Final = 1
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


class SystemMemory:
    """This process's memory on a device, from `open` to `close`. On a CPU it is the process's own.

    Nothing is reset: the allocator's peak is the user's to reset.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._file: int | None = None
        self.held_bytes: Callable[[], int | None] = (
            self._allocated_bytes if device.type == "cuda" else self.resident_bytes
        )

    @property
    def is_of_device(self) -> bool:
        """Whether `held_bytes` is what an allocator has given out, or the process's resident set."""
        return self.device.type == "cuda"

    def open(self) -> None:
        """Keep the kernel's file open, so that a look takes a microsecond or two."""
        if self._file is None and sys.platform == "linux":
            self._file = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def resident_bytes(self) -> int | None:
        """Return what of the process lies in memory; None where the system does not say it now."""
        if self._file is None:
            return None
        return int(os.pread(self._file, 128, 0).split(None, 2)[_RESIDENT_FIELD]) * _PAGE_BYTES

    def numbers(self) -> dict[str, int]:
        """Return all values that are known, by name."""
        told = {
            "host_resident": self.resident_bytes(),
            "host_peak": _host_peak_bytes(),
            **_host_numbers(),
            **(self._device_numbers() if self.is_of_device else {}),
        }
        return {name: value for name, value in told.items() if value is not None}

    def _allocated_bytes(self) -> int | None:
        return int(self._statistics()["allocated_bytes"]["all"]["current"])

    def _statistics(self) -> dict[str, Any]:  # Any: torch nests dictionaries of counters
        statistics: dict[str, Any] = torch._C._cuda_memoryStats(self._index())  # noqa: SLF001 - memory_stats() flattens them, slowly
        return statistics

    def _index(self) -> int:
        return torch.cuda.current_device() if self.device.index is None else self.device.index

    def _device_numbers(self) -> dict[str, int]:
        """Return the allocator's counters, and the driver's: `device_others` is of other processes."""
        statistics = self._statistics()

        def counter(name: str, which: str) -> int:
            return int(statistics[name]["all"][which])

        free, total = torch.cuda.mem_get_info(self._index())
        reserved = counter("reserved_bytes", "current")
        return {
            "device_allocated": counter("allocated_bytes", "current"),
            "device_peak": counter("allocated_bytes", "peak"),
            "device_reserved": reserved,
            "device_active": counter("active_bytes", "current"),
            "device_fragmented": counter("inactive_split_bytes", "current"),
            "device_total": total,
            "device_free": free,
            "device_others": max(0, total - free - reserved),
        }


def _host_peak_bytes() -> int | None:
    try:
        import resource  # noqa: PLC0415 - there is none on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _host_numbers() -> dict[str, int]:
    """Return the machine's memory and what of it could still be used; empty where the system does not report it."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return {}
    lines = dict(line.split(":", 1) for line in path.read_text(encoding="ascii").splitlines())
    names = {"host_total": "MemTotal", "host_available": "MemAvailable"}
    return {ours: int(lines[name].split()[0]) * 1024 for ours, name in names.items() if name in lines}
