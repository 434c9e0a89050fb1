"""What a frame costs: buffer -> columns -> bytes. `python -m benchmarks.frames`; README.md says more.

A buffer of N layers is filled as training fills it, untimed; timed is what follows in each
observed step. The size on the wire is also measured on frames of real trainings.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

import gradscope
from benchmarks.workloads import WORKLOADS
from gradscope.agent.observation.observed_step import ObservedStep, step_message
from gradscope.observe import RowBuffer
from gradscope.protocol import encode

KINDS = (
    "out", "grad", "param", "param.weight", "param.bias", "param_grad", "param_grad.weight",
    "param_grad.bias", "update", "update.weight", "update.bias",
)  # fmt: skip
"""The rows of a layer with a weight and a bias."""

_TENSORS = 251
_ROUNDS = 15


@dataclass(frozen=True, slots=True)
class Cost:
    """Median microseconds of each part of one observed step, and bytes on the wire."""

    layers: int
    rows: int
    detail: str
    read_out_us: float
    block_us: float
    message_us: float
    encode_us: float
    row_bytes: float

    @property
    def step_us(self) -> float:
        """All of it."""
        return self.read_out_us + self.block_us + self.message_us + self.encode_us


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes on the wire for a layer, kind and step, as a training gave them."""

    workload: str
    detail: str
    rows: int
    row_bytes: float
    columns: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print two tables, and write the figures where that was asked for."""
    options = _options(arguments)
    torch.set_num_threads(1)
    print(f"microseconds a step, median of {_ROUNDS}")
    print(
        f"{'layers':>7}{'rows':>8}  {'detail':8}{'read out':>9}{'block':>9}{'message':>9}{'encode':>9}"
        f"{'step':>9}{'a layer':>9}{'bytes a row':>13}"
    )
    costs: list[Cost] = []
    sizes: list[Size] = []
    for detail in ("core", "full"):
        for layers in options.layers:
            costs.append(measure(layers, detail))
            print(_line(costs[-1]), flush=True)
    print("\nbytes on the wire for a layer, kind and step, of which each column")
    for name in options.workloads:
        for detail in ("core", "full"):
            sizes.append(size_of(name, detail))
            print(_size_line(sizes[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(_report(costs, sizes), indent=2) + "\n", encoding="utf-8")


def measure(layers: int, detail: str) -> Cost:
    """Fill a buffer again for each round, and time what makes bytes of it; the median of the rounds."""
    buffer = RowBuffer(is_full=detail == "full")
    targets: list[tuple[int, ...]] = [
        (buffer.row(layer, kind),) for layer in range(layers) for kind in KINDS
    ]
    tensors = [torch.randn(16 + i) * 10.0 ** -(i % 7) for i in range(_TENSORS)]
    given = [tensors[i % _TENSORS] for i in range(len(targets))]
    names = tuple(f"blocks.{i}" for i in range(layers))
    times_s: list[list[float]] = []
    for seq in range(_ROUNDS):
        buffer.add_each(given, targets)
        began_s = time.perf_counter()
        readout = buffer.read_out()
        read_s = time.perf_counter()
        block = readout.block()
        finished = ObservedStep(
            names=names,
            revision=0,
            step=seq,
            time_s=0.0,
            step_time_s=0.1,
            layers="all",
            every=1,
            cost=0.0,
            block=block,
        )
        finished_s = time.perf_counter()
        message = step_message("run", 0, seq, 0, finished)
        made_s = time.perf_counter()
        parts = encode(message)
        ends_s = [began_s, read_s, finished_s, made_s, time.perf_counter()]
        times_s.append([after - before for before, after in pairwise(ends_s)])
        if len(block) != len(targets) or not np.isfinite(block.derive("std")).all():
            raise RuntimeError("the buffer was not read whole, the figure is void")
    read_out_us, block_us, message_us, encode_us = (
        1e6 * statistics.median(column) for column in zip(*times_s[1:], strict=True)
    )
    row_bytes = sum(map(len, parts)) / len(targets)
    return Cost(layers, len(targets), detail, read_out_us, block_us, message_us, encode_us, row_bytes)


def size_of(workload: str, detail: str) -> Size:
    """Train a few steps of a workload and return the size of the last one's frame."""
    training = WORKLOADS[workload].make()
    with gradscope.attach(
        training.model, training.optimizer, every=1, detail=detail, hub=None, quiet=True
    ) as scope:
        for _ in range(4):
            training.step()
        finished = scope._latest_steps._latest  # noqa: SLF001 - the block that the publisher is given
    if finished is None or scope.faults:
        raise RuntimeError(f"nothing was observed, the figure is void: {scope.faults}")
    message = step_message(scope.run, 0, finished.step, 0, finished)
    parts = encode(message)
    columns = {name: float(np.dtype(code).itemsize) for name, code in message.columns}
    bins = len(message.body) / message.rows - sum(columns.values())
    columns |= {"bins": bins} if bins > 0 else {}
    columns["head"] = len(parts[0]) / message.rows
    return Size(workload, detail, message.rows, sum(map(len, parts)) / message.rows, columns)


def _line(cost: Cost) -> str:
    parts_us = (cost.read_out_us, cost.block_us, cost.message_us, cost.encode_us, cost.step_us)
    return (
        f"{cost.layers:7,}{cost.rows:8,}  {cost.detail:8}"
        + "".join(f"{part_us:9,.0f}" for part_us in parts_us)
        + f"{cost.step_us / cost.layers:9.2f}{cost.row_bytes:13.1f}"
    )


def _size_line(size: Size) -> str:
    parts = ", ".join(f"{name} {each:.3g}" for name, each in size.columns.items())
    return f"{size.workload:8}{size.detail:6}{size.row_bytes:6.1f} of {size.rows:,} rows: {parts}"


def _report(costs: list[Cost], sizes: list[Size]) -> dict[str, object]:
    return {
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "costs": [asdict(cost) | {"step_us": cost.step_us} for cost in costs],
        "sizes": [asdict(size) for size in sizes],
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.frames", description=__doc__)
    parser.add_argument("--layers", nargs="+", type=int, default=[60, 600, 6000])
    parser.add_argument(
        "--workloads", nargs="*", choices=WORKLOADS, default=["small", "deep", "resnet"]
    )
    parser.add_argument("--json", type=Path, help="where to write the figures")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
