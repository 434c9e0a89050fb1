"""What observing costs on a CUDA device: `python -m benchmarks.cuda_cost`. README.md says how it is taken.

Ends with code 3 where there is no CUDA device.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - as everyone writes it

import gradscope
from benchmarks.settings import SETTINGS
from benchmarks.workloads import Training
from gradscope.observe import RowBuffer, device_pass_name

NO_DEVICE = 3
_MEGABYTES = (1, 4, 16, 64, 256)
_BUSY_CYCLES = 2_000_000
_KINDS = (torch.float32, torch.bfloat16)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and write the results where that was asked for."""
    options = _options(arguments)
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing was measured", file=sys.stderr)
        sys.exit(NO_DEVICE)
    device = torch.device("cuda", torch.cuda.current_device())
    report: dict[str, object] = {
        "device": torch.cuda.get_device_name(device),
        "pass": device_pass_name(),
        "torch": torch.__version__,
    }
    print(*(f"{name}: {what}" for name, what in report.items()), sep="; ")
    report["bandwidth"] = bandwidth(device)
    with tempfile.TemporaryDirectory(prefix="gs-") as place:
        os.environ["GRADSCOPE_RUNTIME_DIR"] = os.environ["GRADSCOPE_DATA_DIR"] = place
        report["waits"] = _told(
            "no whole step waits for the device", lambda: steps_without_waiting(device)
        )
        report["captures"] = _told(
            "a captured graph measures as often as it runs", lambda: capture(device)
        )
        report["steps"] = steps(device, options.seconds)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if not (report["waits"] == report["captures"] == "held"):
        sys.exit(1)


def bandwidth(device: torch.device) -> list[dict[str, object]]:
    """Compare a tensor's pass with torch's copy of it, which reads as much and writes it, too."""
    print(f"\n{'tensor':>16}{'detail':>8}{'pass':>12}{'copy':>12}{'read at':>12}{'of a copy':>11}")
    found: list[dict[str, object]] = []
    for kind in _KINDS:
        for megabytes in _MEGABYTES:
            tensor = torch.randn((megabytes << 20) // kind.itemsize, device=device).to(kind)
            twin = torch.empty_like(tensor)
            copy_s = _device_time(lambda: twin.copy_(tensor))  # noqa: B023 - called before the next round
            for is_full in (False, True):
                buffer = RowBuffer(is_full=is_full)
                row = buffer.row(0, "out")
                pass_s = _device_time(lambda: buffer.add(row, tensor))  # noqa: B023 - as above
                share = tensor.nbytes / pass_s / (2 * tensor.nbytes / copy_s)
                detail = "full" if is_full else "core"
                name = f"{megabytes} MB {str(kind).removeprefix('torch.')}"
                print(
                    f"{name:>16}{detail:>8}{pass_s * 1e6:>9.1f} us{copy_s * 1e6:>9.1f} us"
                    f"{tensor.nbytes / pass_s / 1e9:>7.0f} GB/s{share:>10.0%}"
                )
                found.append(
                    {
                        "tensor": name,
                        "detail": detail,
                        "pass_s": pass_s,
                        "copy_s": copy_s,
                        "share": share,
                    }
                )
    return found


def _device_time(queue: Callable[[], object], runs: int = 30) -> float:
    """Return the median time on the device of what is queued, in seconds, after three runs.

    The device is kept busy meanwhile, so that it does not wait for the queueing.
    """
    times_s: list[float] = []
    for i in range(runs + 3):
        began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda._sleep(_BUSY_CYCLES)  # noqa: SLF001 - no public name
        began.record()
        queue()
        ended.record()
        ended.synchronize()
        if i >= 3:
            times_s.append(began.elapsed_time(ended) / 1e3)
    return statistics.median(times_s)


def steps_without_waiting(device: torch.device) -> None:
    """Train observed steps in which PyTorch raises at whatever waits for the device."""
    training = _gpt(device, batch=4)
    with gradscope.attach(training.model, training.optimizer, every=1, quiet=True) as scope:
        for _ in range(3):
            training.step()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(5):
                training.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        if scope.faults:
            raise RuntimeError(f"gradscope failed: {scope.faults}")


def capture(device: torch.device) -> None:
    """Capture the reduction of a tensor, run the graph three times, and look at the numbers."""
    buffer = RowBuffer()
    row = buffer.row(0, "out")
    x = torch.ones(1 << 20, device=device)
    buffer.add(row, x)
    buffer.harvest().block()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.mul_(2)
        buffer.add(row, x)
    buffer.harvest().block()
    for _ in range(3):
        graph.replay()
    block = buffer.harvest().block()
    found = [block.values[name].tolist() for name in ("calls", "sum")]
    if found != [[3], [(2 + 4 + 8) * (1 << 20)]]:
        raise RuntimeError(f"three runs of the graph left calls and sum {found}")


def steps(device: torch.device, seconds: float) -> list[dict[str, object]]:
    """Compare whole steps of a GPT of width 768 at batch 64 under each setting with bare ones."""
    training = _gpt(device, batch=64)
    _time_steps(training, 5)
    print(f"\n{'setting':10}{'ratio':>8}   {'middle half':17}{'bare step':>12}  rounds")
    found: list[dict[str, object]] = []
    for setting in SETTINGS.values():
        ratios: list[float] = []
        bare_s: list[float] = []
        until = time.perf_counter() + seconds
        while len(ratios) < 3 or time.perf_counter() < until:
            before = _time_steps(training, 5)
            with setting.on(training):
                _time_steps(training, setting.warm_up)
                within = _time_steps(training, 20 if setting.is_sampled else 5)
            bare_s.append((before + _time_steps(training, 5)) / 2)
            ratios.append(within / bare_s[-1])
        low, middle, high = statistics.quantiles(ratios, n=4)
        bare = statistics.median(bare_s)
        half = f"{low:.3f} to {high:.3f}"
        print(
            f"{setting.name:10}{middle:8.3f}   {half:17}{bare * 1e3:9.2f} ms  {len(ratios):6d}",
            flush=True,
        )
        found.append(
            {
                "setting": setting.name,
                "ratio": middle,
                "low": low,
                "high": high,
                "bare_s": bare,
                "rounds": len(ratios),
            }
        )
    return found


def _time_steps(training: Training, count: int) -> float:
    """Return the mean time of a step, from an idle device to an idle device."""
    torch.cuda.synchronize()
    began_s = time.perf_counter()
    for _ in range(count):
        training.step()
    torch.cuda.synchronize()
    return (time.perf_counter() - began_s) / count


def _told(what: str, check: Callable[[], None]) -> str:
    """Make a check, print what came of it, and return it."""
    outcome = "held"
    try:
        check()
    except Exception as error:  # noqa: BLE001 - whatever fails is the outcome
        outcome = f"{type(error).__name__}: {error}"
    print(f"{what}: {outcome}", flush=True)
    return outcome


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc, self.act, self.proj = (
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        y: Tensor = x + self.proj(self.act(self.fc(self.norm2(x))))
        return y


def _gpt(device: torch.device, *, batch: int) -> Training:
    """Return 12 blocks of width 768 over 256 tokens of a vocabulary of 4,096, in bfloat16 autocast."""
    torch.manual_seed(0)
    blocks = [_Block(768, 12) for _ in range(12)]
    model = nn.Sequential(nn.Embedding(4096, 768), *blocks, nn.LayerNorm(768), nn.Linear(768, 4096)).to(
        device
    )
    x, y = (torch.randint(4096, (batch, 256), device=device) for _ in range(2))

    def loss() -> Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return F.cross_entropy(model(x).flatten(0, 1), y.flatten())

    return Training(model, torch.optim.AdamW(model.parameters(), lr=1e-4), loss)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda_cost", description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="about how long for each setting")
    parser.add_argument("--json", type=Path, help="where to write the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
