"""Ranks of one distributed training: a script, forked once for each rank, as torchrun would start it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from support import fork_server

__all__ = ["Ranks", "started_ranks"]

PRELOAD = ("torch.distributed", "torch.nn.parallel", "torch.distributed.fsdp")


class Ranks:
    """The processes of all ranks, by rank.

    Attributes:
        outputs: what each rank has written to stdout, once `finish` has returned.
    """

    def __init__(self, script, *arguments, count=2) -> None:
        common = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
            "OMP_NUM_THREADS": "1",
        }
        self.processes = [
            fork_server.Popen(
                [sys.executable, script, *arguments],
                env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                preload=PRELOAD,
            )
            for rank in range(count)
        ]

    def finish(self, timeout_s: float) -> str:
        """Wait for the end of all ranks, which must be a good one; return what they wrote to stderr."""
        self.outputs, errors = zip(
            *(process.communicate(timeout=timeout_s) for process in self.processes), strict=True
        )
        codes = [process.returncode for process in self.processes]
        assert codes == [0] * len(codes), f"{codes}: {errors}"
        return "".join(errors)

    def has_ended(self) -> bool:
        """Return whether any rank has."""
        return any(process.poll() is not None for process in self.processes)

    def kill(self) -> None:
        """End the ranks that run."""
        for process in self.processes:
            process.kill()
            process.wait(20)
            process.stdout.close()
            process.stderr.close()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def started_ranks(script, *arguments, count=2) -> Iterator[Ranks]:
    """Start ranks; the ones that still run are killed with the block."""
    ranks = Ranks(script, *arguments, count=count)
    try:
        yield ranks
    finally:
        ranks.kill()
