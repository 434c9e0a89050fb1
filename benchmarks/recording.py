"""The recording: bytes and time of a step, how fast a large one opens, and what other ways of packing would give.

python -m benchmarks.recording
"""

import argparse
import os
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - as torch's documentation writes it

import gradscope
from benchmarks.workloads import WORKLOADS
from gradscope.paths import recordings_dir
from gradscope.protocol import Hello, Layer, Manifest, Step, encode, pack_layers
from gradscope.recording import Recorder, open_recording
from gradscope.recording.chunk_codec import (
    Entry,
    decode_heads,
    encode_columns,
    encode_heads,
    join_bodies,
    split_body,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_CHUNK_STEPS = 64


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(32, 32), nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.act(self.linear(x))
        return x + 0.1 * y


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=128, help="steps of each run")
    parser.add_argument("--size-mb", type=int, default=256, help="size of the large recording")
    parser.add_argument("--ways", action="store_true", help="also compare ways of packing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as directory:
        os.environ["GRADSCOPE_RUNTIME_DIR"] = f"{directory}/run"
        os.environ["GRADSCOPE_DATA_DIR"] = f"{directory}/data"
        os.environ["GRADSCOPE_RECORDINGS_EXACT"] = "1"
        runs = {name: _train(name, options.steps) for name in ("gpt", "resnet", "layers-600")}
        del os.environ["GRADSCOPE_RECORDINGS_EXACT"]
        for name, steps in runs.items():
            _print_sizes(name, steps)
            if options.ways:
                _print_ways(steps)
        for name, steps in runs.items():
            _print_speed(name, steps, Path(directory))
        _print_large(runs["layers-600"], Path(directory), options.size_mb * 2**20)


def _train(name: str, count: int) -> list[Step]:
    """Train, every step observed, and return the steps that the hub has recorded."""
    torch.manual_seed(0)
    if name == "layers-600":
        model: nn.Module = nn.Sequential(
            nn.Linear(16, 32), *(_Residual() for _ in range(299)), nn.Linear(32, 4)
        )

        def loss() -> torch.Tensor:
            x = torch.randn(32, 16)
            return F.cross_entropy(model(x), (x[:, 0] > 0).long())
    else:
        training = WORKLOADS[name].make()
        model, loss = training.model, training.loss
        count = min(count, 96)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    with gradscope.attach(model, optimizer, name=name, every=1, quiet=True):
        for _ in range(count):
            optimizer.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
            optimizer.step()
    path = recordings_dir() / f"{name}.gradscope"
    while True:
        with open_recording(path) as recording:
            if recording.info.ended_s is not None:
                return list(recording.steps())
        time.sleep(0.1)


def _entries(steps: Sequence[Step]) -> list[Entry]:
    return [
        Entry(msgspec.structs.replace(step, body=b""), encode(step)[0], step.body) for step in steps
    ]


def _chunks(steps: Sequence[Step]) -> Iterator[list[Entry]]:
    """Yield the entries as the recorder packs them: 64 steps, or fewer in 4 MiB."""
    largest = max(len(step.body) for step in steps)
    count = max(1, min(_CHUNK_STEPS, 4 * 2**20 // largest))
    entries = _entries(steps)
    return (entries[at : at + count] for at in range(0, len(entries), count))


def _print_sizes(name: str, steps: Sequence[Step]) -> None:
    raw = sum(len(entry.head) + len(entry.body) for entry in _entries(steps))
    print(f"{name}: {steps[-1].rows} rows, {raw // len(steps)} bytes a step arrive")
    for is_rounded in (False, True):
        size, pack_s, largest_s = _sizes(steps, is_rounded=is_rounded)
        kept = "rounded" if is_rounded else "exact"
        print(
            f"    {kept}: {size / len(steps):.0f} bytes a step; packing {pack_s / len(steps) * 1e3:.2f} ms a step; a "
            f"chunk is unpacked in {largest_s * 1e3:.0f} ms"
        )


def _sizes(steps: Sequence[Step], *, is_rounded: bool) -> tuple[int, float, float]:
    """Return the bytes of all chunks, and the processor times for packing all and for unpacking the slowest."""
    size, pack_s, largest_s = 0, 0.0, 0.0
    for entries in _chunks(steps):
        before = time.process_time()
        heads, columns = encode_heads(entries), encode_columns(entries, is_rounded=is_rounded)
        packed = time.process_time()
        found = join_bodies(decode_heads(heads)[1], columns)
        pack_s += packed - before
        largest_s = max(largest_s, time.process_time() - packed)
        size += len(heads) + sum(len(column.data) for column in columns)
        if not is_rounded and found != [entry.body for entry in entries]:
            raise AssertionError("a step does not come back as it was")
    return size, pack_s, largest_s


def _print_ways(steps: Sequence[Step]) -> None:
    """Print the size of a body and the time for other ways of packing."""
    count = len(steps)
    ways: dict[str, Callable[[bytes], bytes]] = {
        "zlib 6": lambda plain: zlib.compress(plain, 6),
        **{f"zstd {n}": lambda plain, n=n: zstd.compress(plain, n) for n in (1, 3, 9)},  # type: ignore[misc]  # n is bound
    }
    forms = {
        "alone, shuffled": [b"".join(map(_planes, split_body(s, s.body)[0])) for s in steps],
        "alone, XOR with the step before": list(_xored(steps)),
        "chunks, XOR, transposed": list(_together(steps)),
    }
    for form, blobs in forms.items():
        for way, compress in ways.items():
            began = time.perf_counter()
            size = sum(len(compress(blob)) for blob in blobs)
            spent_s = time.perf_counter() - began
            print(f"    {form}, {way}: {size // count} bytes, {spent_s / count * 1e3:.2f} ms")


def _planes(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).view(np.uint8).reshape(-1, array.dtype.itemsize).T.tobytes()


def _bits(array: np.ndarray) -> np.ndarray:
    return array.view(f"<u{array.dtype.itemsize}")


def _xored(steps: Sequence[Step]) -> Iterator[bytes]:
    before: dict[tuple[str, str], np.ndarray] = {}
    for step in steps:
        pieces = []
        for key, array in zip(step.columns, split_body(step, step.body)[0], strict=True):
            last = before.get(key)
            is_like = last is not None and len(last) == len(array)
            pieces.append(_planes(_bits(array) ^ _bits(last) if is_like else array))  # type: ignore[arg-type]  # it is there
            before[key] = array
        yield b"".join(pieces)


def _together(steps: Sequence[Step]) -> Iterator[bytes]:
    """Yield the bytes of chunks before they are compressed."""
    for entries in _chunks(steps):
        for column in encode_columns(entries):
            yield zstd.decompress(column.data)


def _print_speed(name: str, steps: Sequence[Step], directory: Path) -> None:
    """Print how many steps of a run the recorder takes in a second of one core."""
    path = directory / f"speed-{name}.gradscope"
    recorder = Recorder(path, Hello(role="agent", peer="p", run=name))
    wanted = 1200
    began, began_cpu = time.perf_counter(), time.process_time()
    for number in range(wanted):
        step = msgspec.structs.replace(steps[number % len(steps)], step=number)
        recorder.add(step, encode(step))
        while number - recorder.counters["recorded"] > 300:
            time.sleep(0.005)
    recorder.close(reason="")
    wall_s, cpu_s = time.perf_counter() - began, time.process_time() - began_cpu
    assert recorder.counters["recorded"] == wanted, recorder.failure
    print(
        f"{name}: {wanted} steps recorded with {cpu_s / wanted * 1e3:.2f} ms of processor time each "
        f"({wanted / cpu_s:.0f} steps/s on one core), {path.stat().st_size / wanted:.0f} bytes each on disk, "
        f"{wall_s:.0f} s with the commits once a second"
    )


def _print_large(steps: Sequence[Step], directory: Path, size_bytes: int) -> None:
    """Print how long it takes to open a recording of `size_bytes` and to read steps of it."""
    path = directory / "large.gradscope"
    recorder = Recorder(path, Hello(role="agent", peer="p", run="large"), limit_bytes=size_bytes)
    names = tuple(Layer(f"layer{index}", "Linear") for index in range(901))
    manifest = Manifest(
        run="large", rank=0, revision=1, model="m", layer_count=len(names), body=pack_layers(names)
    )
    recorder.add(manifest, encode(manifest))
    number = 0
    while not recorder.counters["thinned"] and recorder.failure is None:
        step = steps[number % len(steps)]
        step = msgspec.structs.replace(step, step=number, manifest_revision=1)
        recorder.add(step, encode(step))
        number += 1
        while number - recorder.counters["recorded"] > 300:
            time.sleep(0.005)
    recorder.close(reason="")
    began = time.perf_counter()
    with open_recording(path) as recording:
        info = recording.info
        opened_s = time.perf_counter() - began
        times_s = []
        for wanted in np.linspace(0, info.last_step or 0, 20).astype(int):
            before = time.perf_counter()
            recording.steps_near(int(wanted), 1)
            times_s.append(time.perf_counter() - before)
        before = time.perf_counter()
        found, _ = recording.series("layer300", "out", "norm")
        series_s = time.perf_counter() - before
    print(
        f"a recording of {info.size_bytes / 2**20:.0f} MiB with {info.steps} of {number} steps: opened with its "
        f"summary in {opened_s * 1e3:.0f} ms; any step in {max(times_s) * 1e3:.0f} ms at most (median "
        f"{np.median(times_s) * 1e3:.0f} ms); one number of {len(found)} steps in {series_s:.2f} s"
    )


if __name__ == "__main__":
    main()
