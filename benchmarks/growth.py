"""How the cost of an observed step grows: `python -m benchmarks.growth`, or `make bench-plots`.

With the number of layers, with the size of a tensor, and with the number of ranks. Steps are timed by
turns, bare and observed, in one process. Writes docs/growth.json, and docs/growth.png where matplotlib
is installed. README.md says how each figure is taken.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.chains import chain
from benchmarks.rank_growth import RankPoint, measure_ranks
from benchmarks.settings import SETTINGS
from benchmarks.workloads import Training
from gradscope.observe import RowBuffer, pass_name

P = TypeVar("P")

_DOCS = Path(__file__).parents[1] / "docs"
_BLOCK_S = 0.4
"""A block of steps is about so long, so that few layers get many steps and many get few."""


@dataclass(frozen=True, slots=True)
class LayerPoint:
    """A chain of N layers: the ratio of step times (median and middle half of the turns)."""

    layers: int
    setting: str
    bare_ms: float
    ratio: float
    low: float
    high: float
    turns: int

    @property
    def layer_us(self) -> float:
        """Microseconds that each layer adds to an observed step."""
        return 1e3 * (self.ratio - 1) * self.bare_ms / self.layers


@dataclass(frozen=True, slots=True)
class TensorPoint:
    """One float32 tensor: microseconds of the pass and of copying the same bytes, medians."""

    elements: int
    what: str
    microseconds: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: about N seconds for each point, M turns at the least."""

    layers: tuple[int, ...]
    elements: tuple[int, ...]
    ranks: tuple[int, ...]
    seconds: float
    turns: int


FULL = Plan(
    (10, 30, 100, 300, 1_000, 3_000, 10_000),
    tuple(2**power for power in range(10, 27, 2)),
    (1, 2),
    seconds=15.0,
    turns=3,
)
QUICK = Plan((10, 100, 1_000), tuple(2**power for power in range(10, 23, 4)), (1, 2), 1.0, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, telling each point as it comes; then write the figures and the plot."""
    options = _options(arguments)
    plan = QUICK if options.quick else FULL
    torch.set_num_threads(1)
    print(f"pass: {pass_name()}; torch {torch.__version__}; one thread of {os.cpu_count()} cores")
    with _own_places():
        layers = list(_told(layer_points(plan), _layer_line))
        tensors = list(_told(tensor_points(plan), _tensor_line))
        ranks = list(_told(rank_points(plan), _rank_line))
    options.json.write_text(json.dumps(_report(layers, tensors, ranks), indent=2) + "\n", "utf-8")
    print(f"wrote {options.json}")
    if options.png is not None:
        from benchmarks.growth_plot import draw  # noqa: PLC0415 - matplotlib is optional

        draw(layers, tensors, ranks, options.png)
        print(f"wrote {options.png}")


def layer_points(plan: Plan) -> Iterator[LayerPoint]:
    """Observe chains of more and more layers, all of width 32, against empty hooks on them."""
    for layers in plan.layers:
        training = chain(layers, width=32)
        for setting in ("floor", "core"):
            yield _layer_point(plan, training, layers, setting)


def _layer_point(plan: Plan, training: Training, layers: int, setting: str) -> LayerPoint:
    training.times_s(2)
    count = max(2, int(_BLOCK_S / statistics.median(training.times_s(3))))
    ratios: list[float] = []
    bare_s: list[float] = []
    until_s = time.perf_counter() + plan.seconds
    while len(ratios) < plan.turns or time.perf_counter() < until_s:
        before = training.times_s(count)
        with SETTINGS[setting].on(training):
            training.times_s(3)
            within_s = statistics.median(training.times_s(count))
        after = training.times_s(count + 1)[1:]
        bare_s.append(statistics.median(before + after))
        ratios.append(within_s / bare_s[-1])
    low, middle, high = _quartiles(ratios)
    bare_ms = 1e3 * statistics.median(bare_s)
    return LayerPoint(layers, setting, bare_ms, middle, low, high, len(ratios))


def tensor_points(plan: Plan) -> Iterator[TensorPoint]:
    """Reduce larger and larger tensors, by turns with copying them."""
    for elements in plan.elements:
        tensor, into = torch.randn(elements), torch.empty(elements)
        core, full = RowBuffer(), RowBuffer(is_full=True)
        ways: dict[str, Callable[[], object]] = {
            "copy": lambda into=into, tensor=tensor: into.copy_(tensor),  # type: ignore[misc]  # bound now
            "core": lambda buffer=core, tensor=tensor: buffer.add(buffer.row(0, "out"), tensor),  # type: ignore[misc]  # as above
            "full": lambda buffer=full, tensor=tensor: buffer.add(buffer.row(0, "out"), tensor),  # type: ignore[misc]  # as above
        }
        calls = max(1, 2**17 // elements)
        times_us: dict[str, list[float]] = {what: [] for what in ways}
        until_s = time.perf_counter() + plan.seconds / 4
        while len(times_us["copy"]) < 5 or time.perf_counter() < until_s:
            for what, work in ways.items():
                began_s = time.perf_counter()
                for _ in range(calls):
                    work()
                times_us[what].append(1e6 * (time.perf_counter() - began_s) / calls)
        for what, each in times_us.items():
            low, middle, high = _quartiles(each)
            yield TensorPoint(elements, what, middle, low, high)


def rank_points(plan: Plan) -> Iterator[RankPoint]:
    """Train the same on one rank and on several, each a process of its own."""
    for ranks in plan.ranks:
        yield measure_ranks(ranks, plan.seconds, plan.turns)


def _told(points: Iterator[P], line: Callable[[P], str]) -> Iterator[P]:
    for point in points:
        print(line(point), flush=True)
        yield point


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


@contextmanager
def _own_places() -> Iterator[None]:
    """Have hub and recordings in a directory of this run's own."""
    with tempfile.TemporaryDirectory(prefix="gs-") as place:
        os.environ["GRADSCOPE_RUNTIME_DIR"] = os.environ["GRADSCOPE_DATA_DIR"] = place
        yield


def _layer_line(point: LayerPoint) -> str:
    return (
        f"{point.layers:9,} layers    {point.setting:6} ratio {point.ratio:6.3f} "
        f"({point.low:.3f} to {point.high:.3f}), bare {point.bare_ms:9.2f} ms, "
        f"{point.layer_us:6.2f} µs a layer, {point.turns} turns"
    )


def _tensor_line(point: TensorPoint) -> str:
    return (
        f"{point.elements:11,} elements  {point.what:6} {point.microseconds:11,.2f} µs "
        f"({point.low:,.2f} to {point.high:,.2f})"
    )


def _rank_line(point: RankPoint) -> str:
    return (
        f"{point.ranks:9} ranks            ratio {point.ratio:6.3f} "
        f"({point.low:.3f} to {point.high:.3f}), bare {point.bare_ms:9.2f} ms, {point.turns} turns"
    )


def _report(
    layers: list[LayerPoint], tensors: list[TensorPoint], ranks: list[RankPoint]
) -> dict[str, object]:
    return {
        "pass": pass_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "layers": [asdict(point) | {"layer_us": point.layer_us} for point in layers],
        "tensors": [asdict(point) for point in tensors],
        "ranks": [asdict(point) for point in ranks],
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer points and turns: under a minute")
    parser.add_argument("--json", type=Path, default=_DOCS / "growth.json")
    parser.add_argument("--png", type=Path, help="where to draw it; needs matplotlib")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
