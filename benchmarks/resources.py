"""What measuring memory and time costs: `python -m benchmarks.resources`.

By turns, in one process, the same training runs bare, and with memory and time measured in every step
and nothing else (no statistics, no link). Printed are the ratio of step times, the time that it costs a
measured step, and what that amounts to at the interval that the default budget chooses.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

import gradscope
from benchmarks.workloads import WORKLOADS, Training, Workload
from gradscope.resources import MeasuringSchedule

_NEVER = 10**9
_BUDGET = 0.02


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over turns. `share` is the cost at the cadence of the default budget, of all time."""

    ratio: float
    low: float
    high: float
    bare_ms: float
    cost_ms: float
    layers: int
    every: int
    share: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a line for each workload."""
    options = _options(arguments)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread; memory and time measured in every step against bare")
    print(
        f"{'workload':10}{'ratio':>8}   {'middle half':17}{'bare step':>12}{'cost':>12}{'a layer':>11}"
        f"{'by default':>22}"
    )
    for name in options.workloads:
        print(_line(name, measure(WORKLOADS[name], options.seconds)), flush=True)


def measure(workload: Workload, seconds: float) -> Result:
    """Train by turns bare and measured for about a given number of seconds, three turns at least."""
    training = workload.make()
    _times_s(training, 3)
    ratios: list[float] = []
    bare_s: list[float] = []
    costs_s: list[float] = []
    until = time.perf_counter() + seconds
    while len(ratios) < 3 or time.perf_counter() < until:
        before = _times_s(training, workload.block)
        within = _measured_s(training, workload.block)
        bare = statistics.median(before + _times_s(training, workload.block + 1)[1:])
        bare_s.append(bare)
        ratios.append(within / bare)
        costs_s.append(max(0.0, within - bare))
    low, middle, high = statistics.quantiles(ratios, n=4)
    step_s, cost_s = statistics.median(bare_s), statistics.median(costs_s)
    every, share = _by_default(step_s, cost_s)
    layers = sum(1 for _ in training.model.modules())
    return Result(middle, low, high, step_s * 1e3, cost_s * 1e3, layers, every, share)


def _measured_s(training: Training, count: int) -> float:
    """Return the median time of a measured step, after making sure that each was measured."""
    with gradscope.attach(
        training.model, training.optimizer, every=_NEVER, hub=None, quiet=True
    ) as scope:
        _times_s(training, 2, scope)
        times_s = _times_s(training, count, scope)
        if scope.faults or scope.memory().step != scope.step - 1 or not scope.times().phases_s:
            raise RuntimeError(f"the steps were not measured, the figure is void: {scope.faults}")
        if not scope.memory()[""].total.saved_bytes:
            raise RuntimeError("no layer kept anything, the figure is void")
        return statistics.median(times_s)


def _times_s(training: Training, count: int, scope: gradscope.Scope | None = None) -> list[float]:
    times_s = []
    for _ in range(count):
        if scope is not None:
            scope.measure_now()  # asked for in each step, done in the one after it
        began_s = time.perf_counter()
        training.step()
        times_s.append(time.perf_counter() - began_s)
    return times_s


def _by_default(step_s: float, cost_s: float) -> tuple[int, float]:
    """Return every how many steps one is measured under the default budget, and what that costs."""
    cadence = MeasuringSchedule(_BUDGET, 0)
    for step in range(100_000):
        is_due = cadence.is_due(step, is_observed=False)
        spent_s = cost_s if is_due else 0.0
        cadence.record(step, step_s + spent_s, spent_s, was_measured=is_due, was_observed=False)
    return cadence.every, cadence.cost()


def _line(name: str, result: Result) -> str:
    half = f"{result.low:.3f} to {result.high:.3f}"
    a_layer_us = 1e3 * result.cost_ms / result.layers
    default = f"{result.share:.2%} (1 in {result.every:,})"
    return (
        f"{name:10}{result.ratio:8.3f}   {half:17}{result.bare_ms:9.2f} ms{result.cost_ms:9.2f} ms"
        f"{a_layer_us:8.0f} µs{default:>22}"
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.resources", description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--seconds", type=float, default=20.0, help="about how long for each")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
