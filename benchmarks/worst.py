"""How slow the slowest observed step is: `python -m benchmarks.worst`; README.md says more.

By turns the training runs bare, and attached with every step observed: its statistics only, then with
memory and time in the few steps that are chosen by default. Shown are the median, the 99th percentile
and the worst step; the worst also without what Python's full collections of garbage took in it (with
torch loaded each takes some 0.2 s, independent of whose objects trigger it), and by this thread's processor time,
which other programs on the machine cannot lengthen.
"""

import argparse
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import gradscope
from benchmarks.workloads import WORKLOADS, Training

WAYS: dict[str, dict[str, Any]] = {"statistics": {"resources_every": 10**9}, "and memory": {}}
"""How it is attached, beside `every=1`. The first step, which is always measured, is warm-up."""

_WARM_UP = 5
_FULL = 2


@dataclass(slots=True)
class Steps:
    """Step times of one way of training: on the wall, by this thread's processor, full collections."""

    workload: str
    way: str
    wall_s: list[float] = field(default_factory=list)
    processor_s: list[float] = field(default_factory=list)
    collected_s: list[float] = field(default_factory=list)

    def line(self) -> str:
        """Return the distribution: milliseconds, and the worst step in medians."""
        middle_s, middle_processor_s = map(statistics.median, (self.wall_s, self.processor_s))
        late_s = statistics.quantiles(self.wall_s, n=100, method="inclusive")[-1]
        without_s = max(t - c for t, c in zip(self.wall_s, self.collected_s, strict=True))
        processor_s = max(t - c for t, c in zip(self.processor_s, self.collected_s, strict=True))
        worst = (max(self.wall_s) / middle_s, without_s / middle_s, processor_s / middle_processor_s)
        return (
            f"{self.workload:9}{self.way:12}{len(self.wall_s):6,}{1e3 * middle_s:9.2f}"
            f"{1e3 * late_s:9.2f}{1e3 * max(self.wall_s):9.2f}"
            + "".join(f"{each:10.2f}" for each in worst)
            + f"{sum(t > 2 * middle_s for t in self.wall_s):8}{sum(c > 0 for c in self.collected_s):13}"
        )


class Collections:
    """Notes the time of full collections while it is among gc's callbacks."""

    def __init__(self) -> None:
        self._began_s = self._spent_s = 0.0

    def __call__(self, phase: str, info: dict[str, Any]) -> None:  # Any: as gc says
        """Take what gc tells."""
        if info["generation"] != _FULL:
            return
        if phase == "start":
            self._began_s = time.perf_counter()
        else:
            self._spent_s += time.perf_counter() - self._began_s

    def take(self) -> float:
        """Return the seconds since it was last asked."""
        spent_s, self._spent_s = self._spent_s, 0.0
        return spent_s


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print three lines for each workload."""
    options = _options(arguments)
    torch.set_num_threads(1)
    print(f"{'':27}{'milliseconds':>27}{'worst, in medians':>30}{'steps':>8}{'steps with':>13}")
    print(
        f"{'workload':9}{'':12}{'steps':>6}{'median':>9}{'99 %':>9}{'worst':>9}{'all':>10}{'no gc':>10}"
        f"{'processor':>10}{'above 2':>8}{'collections':>13}"
    )
    collections = Collections()
    gc.callbacks.append(collections)
    results: list[Steps] = []
    with tempfile.TemporaryDirectory(prefix="gs-") as place:
        os.environ["GRADSCOPE_RUNTIME_DIR"] = os.environ["GRADSCOPE_DATA_DIR"] = place
        for name in options.workloads:
            ways = measure(name, options.seconds, collections)
            results += ways
            print("\n".join(steps.line() for steps in ways), flush=True)
    gc.callbacks.remove(collections)
    if options.json is not None:
        text = json.dumps([asdict(steps) for steps in results], indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")


def measure(name: str, seconds: float, collections: Collections) -> list[Steps]:
    """Train by turns for about a given number of seconds, two turns at the least."""
    workload = WORKLOADS[name]
    training = workload.make()
    bare, ways = Steps(name, "bare"), {way: Steps(name, way) for way in WAYS}
    until_s = time.perf_counter() + seconds
    turns = 0
    while turns < 2 or time.perf_counter() < until_s:
        turns += 1
        for way, options in WAYS.items():
            _train(training, _WARM_UP, collections, None)
            _train(training, 2 * workload.block, collections, bare)
            with gradscope.attach(
                training.model, training.optimizer, every=1, quiet=True, **options
            ) as scope:
                _train(training, _WARM_UP, collections, None)
                _train(training, 4 * workload.block, collections, ways[way])
                if scope.faults or scope.latest().step != scope.step - 1:
                    raise RuntimeError(f"not every step was observed, it is void: {scope.faults}")
    return [bare, *ways.values()]


def _train(training: Training, count: int, collections: Collections, into: Steps | None) -> None:
    for _ in range(count):
        collections.take()
        began_s, began_processor_s = time.perf_counter(), time.thread_time()
        training.step()
        processor_s, wall_s = time.thread_time() - began_processor_s, time.perf_counter() - began_s
        if into is not None:
            into.wall_s.append(wall_s)
            into.processor_s.append(processor_s)
            into.collected_s.append(collections.take())


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.worst", description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=["small", "deep"])
    parser.add_argument("--seconds", type=float, default=40.0, help="about how long for each")
    parser.add_argument("--json", type=Path, help="where to write all step times")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
