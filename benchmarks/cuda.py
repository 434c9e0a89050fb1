"""What gradscope does on a CUDA device, in one run: `python -m benchmarks.cuda --json cuda.json`.

README.md says what each section compares. It takes at most 8 minutes (`--minutes`). `--dry` runs the same code with
small models on the CPU: it shows that the script works, and its figures say nothing about a GPU.
"""

import argparse
import hashlib
import json
import math
import os
import pickle
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

os.environ.setdefault(
    "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
)  # before CUDA starts: cuBLAS is deterministic

import torch
from torch import Tensor

import gradscope
from benchmarks.cuda_models import MODELS, PRECISIONS, DeviceTraining, make_gpt, make_training
from benchmarks.settings import SETTINGS
from gradscope.columns.block import stats_of_row
from gradscope.observe import RowBuffer, device_pass_name
from gradscope.paths import recordings_dir

NO_DEVICE: Final = 3
_MEGABYTES: Final = (1, 4, 16, 64, 256)
_DTYPES: Final = (torch.float32, torch.bfloat16)
_BUSY_CYCLES: Final = 2_000_000
_STEPS: Final = 6
_SETTINGS: Final = ("A/A", "floor", "core", "full", "budget")
_MOST_SUM_ERROR: Final = 1e-12
"""Of a sum, relative to the sum of magnitudes: the sums are float64."""


class NotMeasuredError(Exception):
    """A section cannot be run here; the text is the reason."""


@dataclass(slots=True)
class Run:
    """Where the sections run, until when, and what they found.

    outcomes: "held", "FAILED: …" or "not measured: …" by section. figures: rows of numbers by section.
    """

    device: torch.device
    is_dry: bool
    ends_s: float
    outcomes: dict[str, str] = field(default_factory=dict)
    figures: dict[str, list[dict[str, object]]] = field(default_factory=dict)

    def measure(self, name: str, section: Callable[["Run", str], None]) -> None:
        """Run a section, and print and keep its outcome."""
        began_s = time.perf_counter()
        try:
            outcome = "not measured: the time is over; --minutes gives more"
            if began_s < self.ends_s:
                section(self, name)
                outcome = "held"
        except NotMeasuredError as error:
            outcome = f"not measured: {error}"
        except torch.OutOfMemoryError as error:
            outcome = f"not measured: {str(error).partition(chr(10))[0]}"
        except Exception as error:  # noqa: BLE001 - any failure is the outcome, and the next section runs
            outcome = f"FAILED: {type(error).__name__}: {error}"
        self.outcomes[name] = outcome
        print(f"{name}: {outcome}  ({time.perf_counter() - began_s:.0f} s)", flush=True)

    def note(self, name: str, line: str, **figures: object) -> None:
        """Print a line of a section, and keep its figures."""
        print(f"  {line}", flush=True)
        self.figures.setdefault(name, []).append(figures)


# --- harmless: training is bitwise the same ---------------------------------------------------------


def harmless(run: Run, name: str) -> None:
    """Compare losses, parameters, optimizer state and random states of bare and attached trainings, bit by bit."""
    torch.use_deterministic_algorithms(True)
    try:
        for model in MODELS:
            for precision in PRECISIONS:
                bare, again = (_train_digest(run, model, precision, None) for _ in range(2))
                for detail in ("core", "full"):
                    is_same: bool | None = None
                    if bare == again:
                        is_same = bare == _train_digest(run, model, precision, detail)
                    what = "not deterministic by itself" if is_same is None else str(is_same)
                    run.note(
                        name,
                        f"{model}, {precision}, {detail}: same bits: {what}",
                        model=model,
                        precision=precision,
                        detail=detail,
                        is_same=is_same,
                    )
    finally:
        torch.use_deterministic_algorithms(False)
    rows = run.figures[name]
    if any(row["is_same"] is False for row in rows):
        raise RuntimeError("an attached training differs from the bare one")
    if all(row["is_same"] is None for row in rows):
        raise NotMeasuredError("two bare trainings differ: this device is not deterministic")


def _train_digest(run: Run, model: str, precision: str, detail: str | None) -> str:
    training = make_training(model, precision, run.device)
    options: dict[str, Any] = {"every": 1, "detail": detail, "hub": None, "quiet": True}
    attached = nullcontext() if detail is None else gradscope.attach(training.model, **options)
    with attached as scope:
        losses = [training.step() for _ in range(_STEPS)]
        _check_faults(scope)
    states = [torch.random.get_rng_state()]
    if run.device.type == "cuda":
        states.append(torch.cuda.get_rng_state(run.device))
    kept = [each for state in training.optimizer.state.values() for each in state.values()]
    tensors = [*losses, *training.model.state_dict().values(), *kept, *states]
    digest = hashlib.sha256()
    for tensor in tensors:
        if isinstance(tensor, Tensor):
            digest.update(
                tensor.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes()
            )
    return digest.hexdigest()


def _check_faults(scope: "gradscope.Scope | None") -> None:
    if scope is not None and scope.faults:
        raise RuntimeError(f"gradscope failed: {scope.faults}")


# --- truth: the numbers against float64 on the CPU --------------------------------------------------


def truth(run: Run, name: str) -> None:
    """Compare the statistics of tensors with float64 formulas of PyTorch on the CPU."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        worst, count = 0.0, 0
        for tensor in _tensors(dtype):
            buffer = RowBuffer(is_full=True)
            buffer.add(buffer.row(0, "out"), tensor.to(run.device))
            stats = stats_of_row(buffer.read_out().block(), 0)
            worst = max(worst, _largest_error(stats, tensor))
            count += 1
        run.note(
            name,
            f"{count} tensors of {dtype}: counts and extremes equal, sums within {worst:.1e}",
            dtype=str(dtype),
            tensors=count,
            worst_error=worst,
        )
        if worst > _MOST_SUM_ERROR:
            raise RuntimeError(f"a sum of {dtype} is off by {worst:.1e} of the sum of magnitudes")


def _tensors(dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    found: list[Tensor] = [torch.randn(64, 48, generator=generator).to(dtype).t()]
    special = [math.nan, math.inf, -math.inf, 0.0, -0.0, torch.finfo(dtype).smallest_normal / 2]
    for size in (1, 511, 4_097, 100_003):
        plain = torch.randn(size, generator=generator).to(dtype)
        marked = plain.clone()
        marked[: min(size, len(special))] = torch.tensor(special[: min(size, len(special))]).to(dtype)
        found += [plain, marked, marked[1:], (plain * 1e-3 + 100).to(dtype)]
    return [each for each in found if each.numel()]


def _largest_error(stats: gradscope.Stats, tensor: Tensor) -> float:
    """Return the largest error of the two sums. Raises RuntimeError if another number differs."""
    x = tensor.double()
    finite = x[torch.isfinite(x)]
    exact = {
        "count": x.numel(),
        "nan": int(x.isnan().sum()),
        "posinf": int((x == math.inf).sum()),
        "neginf": int((x == -math.inf).sum()),
        "zero": int((x == 0).sum()),
        "min": float(finite.min()) if len(finite) else math.inf,
        "max": float(finite.max()) if len(finite) else -math.inf,
    }
    wrong = {n: (getattr(stats, n), value) for n, value in exact.items() if getattr(stats, n) != value}
    if wrong:
        raise RuntimeError(f"{tuple(tensor.shape)} {tensor.dtype}: (found, expected) {wrong}")
    if not len(finite):
        return 0.0
    sums = (stats.sum, math.fsum(finite.tolist()), math.fsum(finite.abs().tolist()))
    squares = (stats.sumsq, *[math.fsum((finite * finite).tolist())] * 2)
    return max(abs(got - want) / max(size, 1e-300) for got, want, size in (sums, squares))


# --- waits: nothing waits for the device ------------------------------------------------------------


def waits(run: Run, name: str) -> None:
    """Train observed steps in which PyTorch raises at each synchronisation; on the CPU without that check."""
    for detail in ("core", "full"):
        training = _gpt(run, batch=4)
        options: dict[str, Any] = {"every": 1, "detail": detail, "quiet": True}
        with gradscope.attach(training.model, training.optimizer, **options) as scope:
            for _ in range(3):
                training.step()
            if not run.is_dry:
                torch.cuda.set_sync_debug_mode("error")
            try:
                for _ in range(5):
                    training.step()
            finally:
                if not run.is_dry:
                    torch.cuda.set_sync_debug_mode("default")
            _check_faults(scope)
        run.note(name, f"5 observed steps at {detail} detail", detail=detail)
    if run.is_dry:
        raise NotMeasuredError("a CPU has nothing to wait for; the steps ran")


# --- bandwidth: the pass over one tensor ------------------------------------------------------------


def bandwidth(run: Run, name: str) -> None:
    """Compare the pass over a tensor with PyTorch's copy of it, which reads as much and also writes it."""
    for dtype in _DTYPES:
        for megabytes in _MEGABYTES[:2] if run.is_dry else _MEGABYTES:
            tensor = torch.randn((megabytes << 20) // dtype.itemsize, device=run.device).to(dtype)
            twin = torch.empty_like(tensor)
            copy_s = _time_on_device(run, lambda: twin.copy_(tensor))  # noqa: B023 - called in this round
            for is_full in (False, True):
                buffer = RowBuffer(is_full=is_full)
                row = buffer.row(0, "out")
                pass_s = _time_on_device(run, lambda: buffer.add(row, tensor))  # noqa: B023 - as above
                share = tensor.nbytes / pass_s / (2 * tensor.nbytes / copy_s)
                detail = "full" if is_full else "core"
                what = f"{megabytes} MB {str(dtype).removeprefix('torch.')}"
                run.note(
                    name,
                    f"{what:>16} {detail}: pass {pass_s * 1e6:8.1f} us, copy {copy_s * 1e6:8.1f} us, "
                    f"read at {tensor.nbytes / pass_s / 1e9:6.0f} GB/s, {share:.0%} of a copy",
                    tensor=what,
                    detail=detail,
                    pass_s=pass_s,
                    copy_s=copy_s,
                    share=share,
                )


def _time_on_device(run: Run, queue: Callable[[], object], runs: int = 30) -> float:
    """Return the median time of the queued work in seconds, after three runs.

    The device is kept busy before it, so that it does not wait for the work to be queued.
    """
    times_s: list[float] = []
    for i in range(runs + 3):
        if run.is_dry:
            began_s = time.perf_counter()
            queue()
            time_s = time.perf_counter() - began_s
        else:
            began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch does not annotate it
            torch.cuda._sleep(_BUSY_CYCLES)  # type: ignore[no-untyped-call]  # noqa: SLF001 - no public name
            began.record()
            queue()
            ended.record()
            ended.synchronize()
            time_s = began.elapsed_time(ended) / 1e3
        if i >= 3:
            times_s.append(time_s)
    return statistics.median(times_s)


# --- graphs: a captured CUDA graph ------------------------------------------------------------------


def graphs(run: Run, name: str) -> None:
    """Capture the pass over a tensor, run the graph three times, and check the numbers."""
    if run.is_dry:
        raise NotMeasuredError("a CPU has no CUDA graphs")
    if device_pass_name() != "triton":
        raise NotMeasuredError("only the Triton kernels can be captured")
    buffer = RowBuffer()
    row = buffer.row(0, "out")
    x = torch.ones(1 << 20, device=run.device)
    buffer.add(row, x)  # loads the kernel: it cannot be loaded during a capture
    buffer.read_out().block()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x.mul_(2)
        buffer.add(row, x)
    buffer.read_out().block()
    for _ in range(3):
        graph.replay()
    stats = stats_of_row(buffer.read_out().block(), 0)
    expected = (3, (2 + 4 + 8) * (1 << 20))
    run.note(name, f"calls {stats.calls}, sum {stats.sum:.0f}", calls=stats.calls, sum=stats.sum)
    if (stats.calls, stats.sum) != expected:
        raise RuntimeError(f"expected calls and sum {expected}")


# --- memory: by layer, against the allocator --------------------------------------------------------


def memory(run: Run, name: str) -> None:
    """Compare each layer's growth of memory with the allocator's counter, and measure what gradscope holds."""
    training = _gpt(run, batch=4)
    training.step()
    if run.is_dry:
        with gradscope.attach(training.model, every=1, hub=None, quiet=True) as scope:
            scope.measure_now()
            for _ in range(3):
                training.step()
            _check_faults(scope)
            if not scope.memory()[""].total.saved_bytes:
                raise RuntimeError("no layer has saved bytes")
        raise NotMeasuredError("the allocator of a CPU has no counter; the measured step ran")
    expected = _growth_by_layer(training)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    with gradscope.attach(training.model, every=10**6, hub=None, quiet=True) as scope:
        training.step()
        held = torch.cuda.memory_allocated() - before
        scope.measure_now()
        for _ in range(2):
            training.step()
        _check_faults(scope)
        table = scope.memory()
        wrong = {}
        for layer, grown in expected.items():
            row = table[layer]
            found = None
            if row.exit_bytes is not None and row.entry_bytes is not None:
                found = row.exit_bytes - row.entry_bytes
            if found != grown:
                wrong[layer] = (found, grown)
    run.note(
        name,
        f"{len(expected)} layers, {len(wrong)} differ; gradscope holds {held:,} bytes on the device",
        layers=len(expected),
        differing={layer: list(pair) for layer, pair in list(wrong.items())[:10]},
        held_bytes=held,
    )
    if wrong:
        raise RuntimeError(f"(found, expected) bytes of {len(wrong)} layers differ, see the figures")


def _growth_by_layer(training: DeviceTraining) -> dict[str, int]:
    """Return by how many bytes the allocator's counter grows in each leaf's forward, in a bare step."""
    grown: dict[str, int] = {}
    handles = []
    for name, module in training.model.named_modules():
        if any(True for _ in module.children()):
            continue

        def before(_m: object, _a: object, name: str = name) -> None:
            grown[name] = -torch.cuda.memory_allocated()

        def after(_m: object, _a: object, _o: object, name: str = name) -> None:
            grown[name] += torch.cuda.memory_allocated()

        handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
    training.step()
    for handle in handles:
        handle.remove()
    return grown


# --- out of memory: the allocator's snapshot ---------------------------------------------------------


def out_of_memory(run: Run, name: str) -> None:
    """Run out of memory in a forward, and read the snapshot that the event names."""
    if run.is_dry:
        raise NotMeasuredError("a CPU has no such snapshot")
    training = _gpt(run, batch=4)
    path = recordings_dir() / "out-of-memory.memory.pickle"
    huge = torch.cuda.get_device_properties(run.device).total_memory
    try:
        with gradscope.attach(training.model, name=path.name.partition(".")[0], every=1, quiet=True):
            training.step()
            torch.empty(huge, dtype=torch.float64, device=run.device)
    except torch.OutOfMemoryError:
        segments = pickle.loads(path.read_bytes())["segments"]  # written by this process
        run.note(name, f"{len(segments)} segments in the snapshot", segments=len(segments))
        return
    raise RuntimeError("eight times the memory of the device could be allocated")


# --- steps: the cost of whole steps -----------------------------------------------------------------


def steps(run: Run, name: str) -> None:
    """Compare whole steps of a GPT of width 768 under each setting with bare ones, by turns."""
    training, batch = _largest_gpt(run)
    is_triton = os.environ["GRADSCOPE_TRITON"] == "1"
    names = _SETTINGS[2:] if is_triton else _SETTINGS  # the first two do not depend on the pass
    left_s = max(0.0, run.ends_s - time.perf_counter()) / (1 if is_triton or run.is_dry else 2)
    for setting_name in names:
        setting = SETTINGS[setting_name]
        ratios: list[float] = []
        bare_s: list[float] = []
        until_s = time.perf_counter() + left_s / len(names)
        while not ratios or time.perf_counter() < until_s:
            before_s = _time_steps(run, training, 5)
            with setting.on(training):  # type: ignore[arg-type]  # it has what a setting uses
                _time_steps(run, training, setting.warm_up)
                within_s = _time_steps(run, training, 20 if setting.is_sampled else 5)
            bare_s.append((before_s + _time_steps(run, training, 5)) / 2)
            ratios.append(within_s / bare_s[-1])
        low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
        bare = statistics.median(bare_s)
        run.note(
            name,
            f"{setting_name:8}{middle:8.3f}   {low:.3f} to {high:.3f}   bare step {bare * 1e3:.2f} ms, "
            f"batch {batch}, {len(ratios)} rounds",
            setting=setting_name,
            ratio=middle,
            low=low,
            high=high,
            bare_s=bare,
            batch=batch,
            rounds=len(ratios),
        )


def _largest_gpt(run: Run) -> tuple[DeviceTraining, int]:
    """Return a GPT at batch 64, or at the largest of 32, 16, 8, 4 that the device has memory for."""
    for batch in (2,) if run.is_dry else (64, 32, 16, 8, 4):
        try:
            training = _gpt(run, batch=batch)
            _time_steps(run, training, 5)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        return training, batch
    raise NotMeasuredError("the device has no memory for batch 4")


def _time_steps(run: Run, training: DeviceTraining, count: int) -> float:
    """Return the mean time of a step, from an idle device to an idle device."""
    if not run.is_dry:
        torch.cuda.synchronize()
    began_s = time.perf_counter()
    for _ in range(count):
        training.step()
    if not run.is_dry:
        torch.cuda.synchronize()
    return (time.perf_counter() - began_s) / count


def _gpt(run: Run, *, batch: int) -> DeviceTraining:
    if run.is_dry:
        return make_gpt(run.device, batch=batch, width=64, layers=2, length=16, vocabulary=64)
    return make_gpt(run.device, batch=batch, width=768, layers=12)


# --- the whole run ----------------------------------------------------------------------------------

SECTIONS: Final = {
    "harmless": harmless,
    "truth": truth,
    "waits": waits,
    "bandwidth": bandwidth,
    "graphs": graphs,
    "memory": memory,
    "out_of_memory": out_of_memory,
    "steps": steps,
}
_INDEPENDENT_OF_PASS: Final = ("memory", "out_of_memory")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all sections with PyTorch's operations, then with the Triton kernels; print and write the results."""
    options = _options(arguments)
    if not options.dry and not torch.cuda.is_available():
        print(
            "There is no CUDA device: nothing was measured. --dry tries the script on a CPU.",
            file=sys.stderr,
        )
        sys.exit(NO_DEVICE)
    ends_s = time.perf_counter() + 60.0 * options.minutes
    if options.dry:
        torch.set_num_threads(1)
        run = Run(torch.device("cpu"), is_dry=True, ends_s=ends_s)
    else:
        run = Run(torch.device("cuda", torch.cuda.current_device()), is_dry=False, ends_s=ends_s)
    about = _about(run)
    print(*(f"{name}: {value}" for name, value in about.items()), sep="\n")
    with tempfile.TemporaryDirectory(prefix="gs-") as place:
        os.environ["GRADSCOPE_RUNTIME_DIR"] = os.environ["GRADSCOPE_DATA_DIR"] = place
        for switch in ("0", "1"):
            _run_sections(run, switch)
    report = {"about": about, "outcomes": run.outcomes, "figures": run.figures}
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"written: {options.json}")
    if any(outcome.startswith("FAILED") for outcome in run.outcomes.values()):
        sys.exit(1)


def _run_sections(run: Run, switch: str) -> None:
    """Run the sections of one pass."""
    os.environ["GRADSCOPE_TRITON"] = switch
    kind = "triton" if switch == "1" else "eager"
    print(f"\n{kind}: {device_pass_name()}")
    for name, section in SECTIONS.items():
        if switch == "1" and name in _INDEPENDENT_OF_PASS:
            continue
        if switch == "1" and device_pass_name() != "triton":
            run.outcomes[f"{kind}/{name}"] = f"not measured: {device_pass_name()}"
            continue
        run.measure(f"{kind}/{name}", section)


def _about(run: Run) -> dict[str, object]:
    about: dict[str, object] = {
        "gradscope": gradscope.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    if run.is_dry:
        return about | {"device": "CPU: a dry run, whose figures say nothing about a GPU"}
    properties = torch.cuda.get_device_properties(run.device)
    return about | {
        "device": properties.name,
        "compute capability": f"{properties.major}.{properties.minor}",
        "device memory in bytes": properties.total_memory,
        "CUDA": torch.version.cuda,
    }


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda", description=__doc__)
    parser.add_argument("--minutes", type=float, default=8.0, help="the longest time for all sections")
    parser.add_argument("--json", type=Path, help="the file for the results")
    parser.add_argument("--dry", action="store_true", help="small models on the CPU")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
