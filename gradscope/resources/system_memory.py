"""Memory counters of the process and its device. Reading them does not synchronise."""

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
    """This process's memory on a device, between `open` and `close`. On a CPU it is the resident set.

    No counter is reset; the allocator's peak is the user's.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._file: int | None = None
        self.held_bytes: Callable[[], int | None] = (
            self._allocated_bytes if device.type == "cuda" else self.resident_bytes
        )

    @property
    def is_of_device(self) -> bool:
        """Whether `held_bytes` is allocated device memory, and not the process's resident set."""
        return self.device.type == "cuda"

    def open(self) -> None:
        """Open the kernel's file, so that a read takes one or two microseconds."""
        if self._file is None and sys.platform == "linux":
            self._file = os.open(_STATM, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def resident_bytes(self) -> int | None:
        """Return the process's resident memory in bytes; None if unknown."""
        if self._file is None:
            return None
        return int(os.pread(self._file, 128, 0).split(None, 2)[_RESIDENT_FIELD]) * _PAGE_BYTES

    def numbers(self) -> dict[str, int]:
        """Return all known counters by name, in bytes."""
        counters = {
            "host_resident": self.resident_bytes(),
            "host_peak": _host_peak_bytes(),
            **_host_numbers(),
            **(self._device_numbers() if self.is_of_device else {}),
        }
        return {name: value for name, value in counters.items() if value is not None}

    def _allocated_bytes(self) -> int | None:
        return int(self._statistics()["allocated_bytes"]["all"]["current"])

    def _statistics(self) -> dict[str, Any]:  # Any: torch nests dictionaries of counters
        statistics: dict[str, Any] = torch._C._cuda_memoryStats(self._index())  # noqa: SLF001 - memory_stats() flattens them, slowly
        return statistics

    def _index(self) -> int:
        return torch.cuda.current_device() if self.device.index is None else self.device.index

    def _device_numbers(self) -> dict[str, int]:
        """Return the counters of the allocator and the driver.

        `device_others` is the memory used by other processes.
        """
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
        import resource  # noqa: PLC0415 - Windows has no such module
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _host_numbers() -> dict[str, int]:
    """Return the machine's total and available memory; empty if unknown."""
    path = Path("/proc/meminfo")
    if not path.exists():
        return {}
    lines = dict(line.split(":", 1) for line in path.read_text(encoding="ascii").splitlines())
    names = {"host_total": "MemTotal", "host_available": "MemAvailable"}
    return {ours: int(lines[name].split()[0]) * 1024 for ours, name in names.items() if name in lines}
