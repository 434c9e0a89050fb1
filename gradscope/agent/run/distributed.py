"""The rank of this process, and a separate connection to the job's store."""

import os
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

__all__ = ["connect_to_job_store", "has_process_group", "rank_and_world_size"]


def has_process_group() -> bool:
    """Return whether torch.distributed is available and initialised."""
    return dist.is_available() and dist.is_initialized()


def rank_and_world_size() -> tuple[int, int]:
    """Return this process's rank and the number of ranks.

    Read from the process group; before it is initialised, from the environment variables RANK and
    WORLD_SIZE that launchers set.
    """
    if has_process_group():
        return dist.get_rank(), dist.get_world_size()
    try:
        return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    except ValueError:
        return 0, 1


def connect_to_job_store(run: str, rank: int) -> "Store":
    """Return the section of the job's store for one run, over a separate connection.

    All ranks get the same section if each has attached the run the same number of times.
    """
    from torch.distributed import PrefixStore, distributed_c10d  # type: ignore[attr-defined]  # noqa: PLC0415 - not in builds without torch.distributed

    store: Any = distributed_c10d._get_default_store()  # noqa: SLF001 - Any, _: no public name gives it
    # A store in a file or in memory cannot be cloned and is shared; that is safe, as our calls never block.
    with suppress(NotImplementedError, RuntimeError):
        store = store.clone()
    ours = PrefixStore("gradscope", store)
    nth = ours.add(f"attached/{run}/{rank}", 1)
    return PrefixStore(f"{run}/{nth}", ours)
