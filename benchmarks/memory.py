"""What an attached run holds in addition to its model: `python -m benchmarks.memory`; README.md says more.

Each figure is of a fresh process, which trains a chain of small layers bare, then attached. Resident
memory is what the system says; Python's own tracer tells in a second process who holds it.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.chains import chain
from benchmarks.workloads import Training

_STEPS = {60: 1000, 600: 1000, 6000: 60}
_MB = 1e6
_GOAL_MB = 20.0


@dataclass(frozen=True, slots=True)
class Held:
    """Megabytes beyond the bare training. `peak` and `traced` are without a copy of the parameters.

    `early` and `late` are resident at two step boundaries, after a tenth of the steps and after all.
    """

    layers: int
    steps: int
    parameters_mb: float
    imported_mb: float
    attached_mb: float
    early_mb: float
    late_mb: float
    peak_mb: float
    traced_mb: float
    traced_peak_mb: float


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each number of layers in processes of its own, and print a line for each."""
    options = _options(arguments)
    if options.child:
        print(json.dumps(_traced(*options.child) if options.traced else _resident(*options.child)))
        return
    print(f"megabytes more than the bare training; every step observed; the goal is {_GOAL_MB:g}")
    print(
        f"{'layers':>7}{'steps':>7}{'parameters':>12}{'imports':>9}{'attach':>8}{'early':>8}{'late':>8}"
        f"{'peak':>8}   {'Python: late':>13}{'peak':>8}"
    )
    results = []
    for layers in options.layers:
        steps = options.steps or _STEPS.get(layers, 200)
        results.append(
            Held(layers, steps, **_child(layers, steps), **_child(layers, steps, traced=True))
        )
        print(_line(results[-1]), flush=True)
    if options.json is not None:
        report = {"torch": torch.__version__, "results": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _resident(layers: int, steps: int) -> dict[str, float]:
    """Train in this process, and return what the system says that it holds."""
    training = _chain(layers)
    _train(training, 5)
    parameters = sum(p.nbytes for p in training.model.parameters())
    bare, bare_peak = _status("VmRSS"), _status("VmHWM")
    import gradscope  # noqa: PLC0415 - its imports are measured

    attach = gradscope.attach
    imported = _status("VmRSS")
    with attach(training.model, training.optimizer, every=1, quiet=True) as scope:
        attached = _status("VmRSS")
        _train(training, max(steps // 10, 1))
        early = _status("VmRSS")
        _train(training, steps - max(steps // 10, 1))
        late, peak = _status("VmRSS"), _status("VmHWM")
        if scope.faults or scope.latest().step != steps - 1:
            raise RuntimeError(f"not every step was observed, the figure is void: {scope.faults}")
    return {
        "parameters_mb": parameters / _MB,
        "imported_mb": (imported - bare) / _MB,
        "attached_mb": (attached - imported) / _MB,
        "early_mb": (early - imported) / _MB,
        "late_mb": (late - imported) / _MB,
        "peak_mb": (peak - max(bare_peak, imported) - parameters) / _MB,
    }


def _traced(layers: int, steps: int) -> dict[str, float]:
    """Train in this process, and return what Python's allocators hold that was not there before."""
    training = _chain(layers)
    _train(training, 5)
    parameters = sum(p.nbytes for p in training.model.parameters())
    import gradscope  # noqa: PLC0415 - its imports are not counted

    attach = gradscope.attach
    tracemalloc.start()
    with attach(training.model, training.optimizer, every=1, quiet=True):
        _train(training, max(steps // 10, 1))
        _, peak = tracemalloc.get_traced_memory()
        gc.collect()
        late, _ = tracemalloc.get_traced_memory()
    return {"traced_mb": late / _MB, "traced_peak_mb": (peak - parameters) / _MB}


def _chain(layers: int) -> Training:
    torch.set_num_threads(1)
    return chain(layers, width=32)


def _train(training: Training, steps: int) -> None:
    for _ in range(steps):
        training.step()


def _status(name: str) -> int:
    """Return a line of the kernel's account of this process, in bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"the system does not tell {name}")


def _child(layers: int, steps: int, *, traced: bool = False) -> dict[str, float]:
    """Measure in a fresh process, with a hub of its own."""
    command = [sys.executable, "-m", "benchmarks.memory", "--child", str(layers), str(steps)]
    with tempfile.TemporaryDirectory(prefix="gs-") as place:
        environment = os.environ | {"GRADSCOPE_RUNTIME_DIR": place, "GRADSCOPE_DATA_DIR": place}
        done = subprocess.run(
            [*command, *(["--traced"] if traced else [])],
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _line(held: Held) -> str:
    return (
        f"{held.layers:7,}{held.steps:7,}{held.parameters_mb:12.1f}{held.imported_mb:9.1f}"
        f"{held.attached_mb:8.1f}{held.early_mb:8.1f}{held.late_mb:8.1f}{held.peak_mb:8.1f}   "
        f"{held.traced_mb:13.1f}{held.traced_peak_mb:8.1f}"
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--layers", nargs="+", type=int, default=list(_STEPS))
    parser.add_argument(
        "--steps", type=int, help="as many for each; fewer for many layers when left out"
    )
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--child", nargs=2, type=int, help=argparse.SUPPRESS)
    parser.add_argument("--traced", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
