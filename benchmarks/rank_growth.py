"""What observing costs a training of several ranks: each a process, joined by DDP and gloo.

With two cores, two ranks leave none to the hub: its work is in their ratio. A rank runs this module
with the number of the rank; rank 0 prints what it measured.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as everyone writes it
from torch.nn.parallel import DistributedDataParallel

import gradscope
from benchmarks.workloads import Training

__all__ = ["RankPoint", "measure_ranks"]

_BLOCK = 60
_LIMIT_S = 300.0


@dataclass(frozen=True, slots=True)
class RankPoint:
    """A number of ranks: the ratio of rank 0's step times, observed to bare, by turns."""

    ranks: int
    bare_ms: float
    ratio: float
    low: float
    high: float
    turns: int


def measure_ranks(ranks: int, seconds: float, turns: int) -> RankPoint:
    """Start the ranks, and return what rank 0 has measured. Raises where one of them fails."""
    with tempfile.TemporaryDirectory(prefix="gs-") as place:
        environment = os.environ | {
            "GRADSCOPE_RUNTIME_DIR": place,
            "GRADSCOPE_DATA_DIR": place,
            "OMP_NUM_THREADS": "1",
        }
        told = [*map(str, (ranks, seconds, turns)), str(Path(place, "meeting"))]
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.rank_growth", str(rank), *told],
                env=environment,
                stdout=subprocess.PIPE,
            )
            for rank in range(ranks)
        ]
        try:
            printed = [process.communicate(timeout=_LIMIT_S)[0] for process in processes]
        finally:
            for process in processes:
                process.kill()
    codes = [process.returncode for process in processes]
    if any(codes):
        raise RuntimeError(f"the ranks ended with {codes}: the figure is void")
    return RankPoint(**json.loads(printed[0]))


def main() -> None:
    """Be one rank."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, kind in (
        ("rank", int),
        ("ranks", int),
        ("seconds", float),
        ("turns", int),
        ("meeting", str),
    ):
        parser.add_argument(name, type=kind)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{options.meeting}",
        rank=options.rank,
        world_size=options.ranks,
    )
    try:
        point = _measure(options.ranks, options.seconds, options.turns)
    finally:
        dist.destroy_process_group()
    if options.rank == 0:
        print(json.dumps(asdict(point)))


def _measure(ranks: int, seconds: float, turns: int) -> RankPoint:
    training = _training()
    training.times_s(5)
    ratios: list[float] = []
    bare_s: list[float] = []
    until_s = time.perf_counter() + seconds
    while _continues(len(ratios) < turns or time.perf_counter() < until_s):
        before = training.times_s(_BLOCK)
        with gradscope.attach(
            training.model, training.optimizer, every=1, name="ranks", quiet=True
        ) as scope:
            training.times_s(5)
            within_s = statistics.median(training.times_s(_BLOCK))
            if scope.faults or scope.latest().step != scope.step - 1:
                raise RuntimeError(f"not every step was observed, it is void: {scope.faults}")
        after = training.times_s(_BLOCK + 1)[1:]
        bare_s.append(statistics.median(before + after))
        ratios.append(within_s / bare_s[-1])
    low, middle, high = ratios[0], ratios[0], ratios[0]
    if len(ratios) > 1:
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return RankPoint(ranks, 1e3 * statistics.median(bare_s), middle, low, high, len(ratios))


def _continues(is_wanted: bool) -> bool:
    """Return what rank 0 says: all ranks take the same number of turns."""
    said = torch.tensor(float(is_wanted))
    dist.broadcast(said, 0)
    return bool(said)


def _training() -> Training:
    torch.manual_seed(0)
    layers = (layer for _ in range(20) for layer in (nn.Linear(128, 128), nn.ReLU()))
    model = DistributedDataParallel(nn.Sequential(*layers))
    x, y = torch.randn(32, 128), torch.randn(32, 128)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    return Training(model, optimizer, lambda: F.mse_loss(model(x), y))


if __name__ == "__main__":
    main()
