"""What the flight recorder costs in a step: trainings with and without it, by turns.

python -m benchmarks.recorder
"""

import argparse
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it

import gradscope
from benchmarks.turns import Trainee, take_turns

_STEPS: Final = 20
_INSIDE_STEPS: Final = 500


@contextmanager
def make(width: int, depth: int, has_recorder: bool) -> Iterator[Callable[[], None]]:
    """Make a small training, attached, with or without the recorder."""
    with _train(width, depth) as (scope, step):
        if not has_recorder:
            scope._recorder.close()  # noqa: SLF001 - no setting switches it off
        yield step


@contextmanager
def _train(width: int, depth: int) -> Iterator[tuple[gradscope.Scope, Callable[[], None]]]:
    torch.manual_seed(0)
    layers = [layer for _ in range(depth) for layer in (nn.Linear(width, width), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Linear(width, 4))
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    x, y = torch.randn(16, width), torch.arange(16) % 4

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()

    with gradscope.attach(model, hub=None, record=False, quiet=True, every=10**6) as scope:
        yield scope, step


def time_inside(width: int, depth: int) -> float:
    """Return the time inside the recorder's hooks in one step, in seconds."""
    torch.set_num_threads(1)
    with _train(width, depth) as (scope, step):
        for _ in range(_INSIDE_STEPS):
            step()
        return statistics.median(scope._recorder._active.spent_s)  # noqa: SLF001 - no public name


def main() -> None:
    """Print the difference of the processor times for three sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    seconds = parser.parse_args().seconds
    for width, depth in ((16, 2), (64, 8), (128, 32)):
        trainees = [Trainee(make, width, depth, has_recorder) for has_recorder in (True, False, False)]
        times = take_turns(trainees, _STEPS, seconds)
        with_it, without, same = (statistics.median(thread_s for _, thread_s in each) for each in times)
        print(
            f"{depth} layers of {width}: {(with_it - without) * 1e6:.0f} us more in a step of "
            f"{without * 1e6:.0f} us (A/A {(same - without) * 1e6:.0f} us), "
            f"{time_inside(width, depth) * 1e6:.0f} us inside the hooks",
            flush=True,
        )
        for each in trainees:
            each.end()


if __name__ == "__main__":
    main()
