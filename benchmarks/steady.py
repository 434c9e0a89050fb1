"""What the default settings cost, at the start and afterwards: `python -m benchmarks.steady`.

Processes train the same model by turns, half of them attached. Any two processes differ by some percent, also two bare
ones. Therefore there are several of each kind, and each ratio has its standard error over the processes.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Final

from benchmarks.settings import SETTINGS
from benchmarks.turns import Trainee, take_turns
from benchmarks.workloads import WORKLOADS

_START_STEPS: Final = 1_100
"""The flight recorder is active in the first 1,024 steps, whatever it costs."""

_TURN_S: Final = 0.05
"""A turn takes about this long, and has at least five steps."""


@contextmanager
def make(workload: str, is_attached: bool) -> Iterator[Callable[[], None]]:
    """Make a training, bare or attached with the default settings."""
    training = WORKLOADS[workload].make()
    with SETTINGS["budget"].on(training) if is_attached else nullcontext():
        yield training.step


def measure(workload: str, seconds: float, processes: int) -> None:
    """Train the first steps, then others for a number of seconds, and print what they cost."""
    kinds = [False, True] * processes
    trainees = [Trainee(make, workload, is_attached) for is_attached in kinds]
    step_s = trainees[0].train(5)[0]
    turn = max(5, int(_TURN_S / step_s))
    start = take_turns(trainees, turn, seconds, most=_START_STEPS // turn)
    bare_s, attached_s = (
        statistics.fmean(clock_s for of_one in start[kind::2] for clock_s, _ in of_one)
        for kind in (0, 1)
    )
    start_s = (attached_s - bare_s) * turn * len(start[0])
    print(f"{workload:9}{step_s * 1e3:8.2f} ms{start_s:9.3f} s", end="", flush=True)
    times = take_turns(trainees, turn, seconds)
    for place in (0, 1):
        # no median: few steps are observed, and these are slower
        means = [statistics.fmean(each[place] for each in of_one) for of_one in times]
        print(f"{ratio_of_means(means[1::2], means[0::2]):>18}", end="")
    print(f"{len(times[0]) * turn:9d}", flush=True)
    for each in trainees:
        each.end()


def ratio_of_means(attached: Sequence[float], bare: Sequence[float]) -> str:
    """Return the ratio of two means and its standard error, by the spread of each over its processes."""
    ratio = statistics.fmean(attached) / statistics.fmean(bare)
    squares = sum(
        statistics.variance(each) / len(each) / statistics.fmean(each) ** 2 for each in (attached, bare)
    )
    return f"{ratio:.3f} ± {ratio * math.sqrt(squares):.3f}"


def main() -> None:
    """Measure, and print a line for each workload."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady", description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--seconds", type=float, default=60.0, help="of the start, and of what follows")
    parser.add_argument(
        "--processes", type=int, default=4, help="bare ones, and as many attached ones; 2 or more"
    )
    options = parser.parse_args()
    if options.processes < 2:
        parser.error(
            f"--processes must be 2 or more, it is {options.processes}: the error is that of their spread"
        )
    print(f"{'workload':9}{'bare step':>11}{'start':>11}{'by clock':>18}{'by thread':>18}{'steps':>9}")
    for workload in options.workloads:
        measure(workload, options.seconds, options.processes)


if __name__ == "__main__":
    main()
