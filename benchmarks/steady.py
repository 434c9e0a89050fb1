"""What the default settings cost, at the start and afterwards: `python -m benchmarks.steady`.

Three processes train the same model by turns: bare, bare once more (A/A), and attached.
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
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


def measure(workload: str, seconds: float) -> None:
    """Train the first steps, then others for a number of seconds, and print what they cost."""
    trainees = [Trainee(make, workload, is_attached) for is_attached in (False, False, True)]
    step_s = trainees[0].train(5)[0]
    turn = max(5, int(_TURN_S / step_s))
    start = take_turns(trainees, turn, seconds, most=_START_STEPS // turn)
    bare_s, _, attached_s = (sum(clock_s for clock_s, _ in of_one) * turn for of_one in start)
    print(f"{workload:9}{step_s * 1e3:8.2f} ms{attached_s - bare_s:9.3f} s", end="", flush=True)
    times = take_turns(trainees, turn, seconds)
    for place in (0, 1):
        # no median: few steps are observed, and these are slower
        bare, same, attached = (statistics.fmean(each[place] for each in of_one) for of_one in times)
        print(f"{attached / bare:10.3f}{same / bare:8.3f}", end="")
    print(f"{len(times[0]) * turn:9d}", flush=True)
    for each in trainees:
        each.end()


def main() -> None:
    """Measure, and print a line for each workload."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steady", description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--seconds", type=float, default=60.0, help="of the start, and of what follows")
    options = parser.parse_args()
    head = f"{'workload':9}{'bare step':>11}{'start':>11}{'by clock':>10}{'A/A':>8}"
    print(f"{head}{'by thread':>10}{'A/A':>8}{'steps':>9}")
    for workload in options.workloads:
        measure(workload, options.seconds)


if __name__ == "__main__":
    main()
