"""What observing costs: `python -m benchmarks.overhead`. README.md says how each figure is taken."""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.settings import SETTINGS, Setting
from benchmarks.workloads import WORKLOADS, Training, Workload
from gradscope import native

SAMPLED_BLOCKS = 3
"""A sampled setting is timed for this number of blocks at a stretch: it observes only a step now and then."""


@dataclass(frozen=True, slots=True)
class Result:
    """The ratio of step times, with to without: the median over rounds, and the middle half of them."""

    workload: str
    setting: str
    ratio: float
    low: float
    high: float
    bare_ms: float
    rounds: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write the results where that was asked for."""
    options = _options(arguments)
    torch.set_num_threads(1)
    results: list[Result] = []
    print(
        f"pass: {native.pass_name()}; torch {torch.__version__}; one thread of {os.cpu_count()} cores"
    )
    print(f"{'workload':10}{'setting':10}{'ratio':>8}   {'middle half':17}{'bare step':>12}  rounds")
    with tempfile.TemporaryDirectory(prefix="gs-") as place:
        os.environ["GRADSCOPE_RUNTIME_DIR"] = place
        os.environ["GRADSCOPE_DATA_DIR"] = place
        for name in options.workloads:
            training = WORKLOADS[name].make()
            for setting in options.settings:
                result = measure(WORKLOADS[name], training, SETTINGS[setting], options.seconds)
                results.append(result)
                print(_line(result), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(_report(results), indent=2) + "\n", encoding="utf-8")


def measure(workload: Workload, training: Training, setting: Setting, seconds: float) -> Result:
    """Train by turns with and without; at least three turns, and about this number of seconds in all."""
    ratios: list[float] = []
    bare: list[float] = []
    training.times_s(3)
    count = workload.block * (SAMPLED_BLOCKS if setting.is_sampled else 1)
    average = statistics.fmean if setting.is_sampled else statistics.median
    until = time.perf_counter() + seconds
    while len(ratios) < 3 or time.perf_counter() < until:
        before = training.times_s(count)
        with setting.on(training):
            training.times_s(setting.warm_up)
            within = training.times_s(count)
        after = training.times_s(count + 1)[1:]  # the first pays for what the setting left in caches
        bare.append(average(before + after))
        ratios.append(average(within) / bare[-1])
    low, middle, high = statistics.quantiles(ratios, n=4)
    bare_ms = statistics.median(bare) * 1e3
    return Result(workload.name, setting.name, middle, low, high, bare_ms, len(ratios))


def _line(result: Result) -> str:
    half = f"{result.low:.3f} to {result.high:.3f}"
    name = f"{result.workload:10}{result.setting:10}"
    return f"{name}{result.ratio:8.3f}   {half:17}{result.bare_ms:9.2f} ms  {result.rounds:6d}"


def _report(results: list[Result]) -> dict[str, object]:
    return {
        "pass": native.pass_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "workloads": {name: WORKLOADS[name].what for name in WORKLOADS},
        "settings": {name: SETTINGS[name].what for name in SETTINGS},
        "results": [asdict(result) for result in results],
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seconds", type=float, default=30.0, help="about how long for each pair")
    parser.add_argument("--json", type=Path, help="where to write the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
