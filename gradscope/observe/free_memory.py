"""`free_bytes`: the memory that a process can still allocate on a device."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import torch

__all__ = ["cgroup_free_bytes", "free_bytes"]

_MEMINFO: Final = Path("/proc/meminfo")
_CGROUPS: Final = Path("/proc/self/cgroup")
_CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
_V1_NAMES: Final = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
_V2_NAMES: Final = "memory.max", "memory.current", "inactive_file"


def free_bytes(device: torch.device) -> int | None:
    """Return the bytes that this process can still allocate on a device; None if unknown.

    On CUDA: what the driver has, and what PyTorch's allocator has reserved and not allocated. On a CPU (Linux only):
    the kernel's `MemAvailable`, or less if a cgroup limits the process, as in a container or a SLURM job. It does not
    synchronise.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if device.type != "cpu" or not _MEMINFO.exists():
        return None
    available = (line for line in _MEMINFO.read_text("ascii").splitlines() if "MemAvailable" in line)
    kilobytes = next(available, "").split()
    if not kilobytes:
        return None
    limit = cgroup_free_bytes(_CGROUPS.read_text("utf-8"), _CGROUP_ROOT)
    free = int(kilobytes[1]) * 1024
    return free if limit is None else min(free, limit)


def cgroup_free_bytes(membership: str, root: Path) -> int | None:
    """Return the bytes below the limit of the tightest cgroup of a process; None if there is no limit.

    membership: the text of `/proc/PID/cgroup`. root: where the cgroups are mounted. Versions 1 and 2 are read. File
    cache that the kernel can drop counts as free.
    """
    free = [each for each in map(_free_in, _folders(membership, root)) if each is not None]
    return min(free, default=None)


def _folders(membership: str, root: Path) -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Yield the cgroup of the process and all cgroups above it, each with the names of its files."""
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        mounted, names = (root / "memory", _V1_NAMES) if controllers else (root, _V2_NAMES)
        folder = mounted / path.lstrip("/")
        while folder.is_relative_to(mounted):
            yield folder, names
            folder = folder.parent


def _free_in(folder: tuple[Path, tuple[str, str, str]]) -> int | None:
    path, (limit_name, usage_name, cache_name) = folder
    try:
        limit = (path / limit_name).read_text("ascii").strip()
        used = int((path / usage_name).read_text("ascii"))
        statistics = (path / "memory.stat").read_text("ascii").splitlines()
    except OSError:  # it is not visible in this namespace, or has no limit
        return None
    if limit == "max":
        return None
    cache = next((int(line.split()[1]) for line in statistics if line.split()[0] == cache_name), 0)
    return max(0, int(limit) - used + cache)
