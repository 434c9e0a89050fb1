"""What one look at a tensor costs: `python -m benchmarks.passes`. README.md says how it is measured."""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from gradscope import native
from gradscope.columns import COLUMN_NAMES, HISTOGRAM_BINS
from gradscope.observe.reduction import reduce_on_host
from gradscope.observe.row_buffer import room_for

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
SIZES = (2_048, 16_384, 65_536, 1_048_576, 16_777_216)

POOL_BYTES = 1 << 26
"""Tensors are taken by turns out of this number of bytes: each comes from memory, and not from a cache."""

POOL_MOST = 20_000
"""Tensors too small to fill the pool are measured in the cache alone."""

CACHED_BYTES = 1 << 24
"""A larger tensor is not said to lie in a cache."""

SAMPLE_S = 5e-4
LEAST_ROUNDS = 5

T = TypeVar("T")
Way: TypeAlias = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Result:
    """Microseconds a tensor: the median of the rounds, and the middle half of them."""

    dtype: str
    size: int
    is_cached: bool
    way: str
    median_us: float
    low_us: float
    high_us: float
    rounds: int


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write the results where that was asked for."""
    options = _options(arguments)
    torch.set_num_threads(1)
    extension = native.native_module()
    if extension is None:
        sys.exit(f"There is no native pass to measure: {native.pass_name()}.")
    results: list[Result] = []
    print(
        f"pass: {native.pass_name()}; torch {torch.__version__}; one thread of {os.cpu_count()} cores"
    )
    print("microseconds a tensor: the median, and half the width of the middle half")
    for dtype in options.dtypes:
        for size in options.sizes:
            for is_cached in _places(size * DTYPES[dtype].itemsize):
                taken = measure(extension, dtype, size, is_cached=is_cached, seconds=options.seconds)
                if not results:
                    print("".join([" " * 28, *(f"{result.way:>16}" for result in taken)]))
                print(_line(taken), flush=True)
                results += taken
    if options.json is not None:
        options.json.write_text(json.dumps(_report(results), indent=2) + "\n", encoding="utf-8")


def _places(size_bytes: int) -> Iterator[bool]:
    """Give whether to measure in the cache, for each place that a tensor of this size can be in."""
    if size_bytes <= CACHED_BYTES:
        yield True
    if POOL_BYTES // size_bytes <= POOL_MOST:
        yield False


def measure(
    extension: ModuleType, dtype: str, size: int, *, is_cached: bool, seconds: float
) -> list[Result]:
    """Time all ways by turns, in a given number of seconds or a little more."""
    count = 1 if is_cached else max(1, POOL_BYTES // (size * DTYPES[dtype].itemsize))
    generator = torch.Generator().manual_seed(0)
    pool = [torch.randn(size, generator=generator).to(DTYPES[dtype]) for _ in range(count)]
    ways = dict(_ways(extension, pool))
    repeats = {name: _repeats(way) for name, way in ways.items()}
    samples: dict[str, list[float]] = {name: [] for name in ways}
    until = time.perf_counter() + seconds
    rounds = 0
    while rounds < LEAST_ROUNDS or time.perf_counter() < until:
        for name, way in ways.items():
            samples[name].append(_time_us(way, repeats[name]))
        rounds += 1
    return [
        Result(dtype, size, is_cached, name, middle, low, high, rounds)
        for name in ways
        for low, middle, high in [statistics.quantiles(samples[name], n=4)]
    ]


def _ways(extension: ModuleType, pool: list[torch.Tensor]) -> Iterator[tuple[str, Way]]:
    """Give what is compared: each call deals with the next tensor of the pool."""
    rows = bytearray(np.array([0.0] * (len(COLUMN_NAMES) - 2) + [math.inf, -math.inf]).tobytes())
    bins = bytearray(8 * HISTOGRAM_BINS)
    digests = bytearray(8)
    targets = [(0,)]
    rooms = [np.ones(room_for([tensor]), np.uint8) for tensor in pool]  # written once: they are there
    before = [np.ones(room_for([tensor]), np.uint8) for tensor in pool]
    for tensor, memory in zip(pool, before, strict=True):
        extension.add_each(rows, None, None, [tensor], targets, memory)
        tensor.mul_(1.125)
    views = [memoryview(tensor.view(torch.uint8).numpy().data) for tensor in pool]
    target = memoryview(bytearray(views[0].nbytes))

    def copy(view: memoryview) -> None:
        target[:] = view

    def add(tensor: torch.Tensor, into: bytearray | None) -> None:
        extension.add(rows, into, None, tensor, 0)

    def add_change(pair: tuple[torch.Tensor, NDArray[np.uint8]], into: bytearray | None) -> None:
        extension.add_changes(rows, into, None, [pair[0]], targets, pair[1])

    def add_and_copy(pair: tuple[torch.Tensor, NDArray[np.uint8]]) -> None:
        extension.add_each(rows, None, None, [pair[0]], targets, pair[1])

    def add_digest(tensor: torch.Tensor) -> None:
        extension.add(rows, None, digests, tensor, 0)

    changes = list(zip(pool, before, strict=True))
    yield "memcpy", _each(views, copy)
    yield "core", _each(pool, partial(add, into=None))
    yield "full", _each(pool, partial(add, into=bins))
    yield "core + digest", _each(pool, add_digest)
    yield "change", _each(changes, partial(add_change, into=None))
    yield "change full", _each(changes, partial(add_change, into=bins))
    yield "core + copy", _each(list(zip(pool, rooms, strict=True)), add_and_copy)
    yield "eager core", _each(pool, reduce_on_host)
    yield "eager full", _each(pool, partial(reduce_on_host, is_full=True))


def _each(items: list[T], do: Callable[[T], object]) -> Way:
    turn = cycle(items)
    return lambda: do(next(turn))


def _repeats(way: Way) -> int:
    way()
    return max(1, round(SAMPLE_S * 1e6 / _time_us(way, 1)))


def _time_us(way: Way, repeats: int) -> float:
    began_s = time.perf_counter()
    for _ in range(repeats):
        way()
    return (time.perf_counter() - began_s) / repeats * 1e6


def _line(results: list[Result]) -> str:
    first = results[0]
    where = "cache" if first.is_cached else "memory"
    cells = []
    for result in results:
        spread = (result.high_us - result.low_us) / 2 / result.median_us
        cells.append(f"{result.median_us:10,.2f} ±{spread:4.0%}")
    return f"{first.dtype:9}{first.size:11,} {where:7}" + "".join(cells)


def _report(results: list[Result]) -> dict[str, object]:
    return {
        "pass": native.pass_name(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "results": [asdict(result) for result in results],
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.passes", description=__doc__)
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument(
        "--sizes", nargs="+", type=int, default=list(SIZES), help="elements of a tensor"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="about how long for each line")
    parser.add_argument("--json", type=Path, help="where to write the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
