"""How long attaching takes, and the first observed step: `python -m benchmarks.attach`.

Each turn is a fresh process, with a hub of its own to start: bare steps, `attach`, and the first step
after it. Printed are medians over the turns, and the slowest.
"""

import argparse
import gc
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.workloads import WORKLOADS, Training

_PARTS = ("import_ms", "attach_ms", "first_step_ms", "bare_ms", "extra_ms", "collecting_ms")
_BARE_STEPS = 8


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure each workload in processes of its own, and print a line for each."""
    options = _options(arguments)
    if options.child is not None:
        print(json.dumps(_measure(options.child)))
        return
    print(f"milliseconds, median (slowest) of {options.turns} fresh processes; every step observed")
    print(f"{'workload':10}" + "".join(f"{name.removesuffix('_ms'):>18}" for name in _PARTS))
    report: dict[str, list[dict[str, float]]] = {}
    for name in options.workloads:
        turns = [_in_fresh_process(name) for _ in range(options.turns)]
        report[name] = turns
        print(f"{name:10}" + "".join(f"{_middle(turns, part):>18}" for part in _PARTS), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _measure(name: str) -> dict[str, float]:
    """Attach in this process. `extra` is attaching and what its first step takes beyond a bare one."""
    began_s = time.perf_counter()
    attach = importlib.import_module("gradscope").attach
    import_s = time.perf_counter() - began_s
    training = WORKLOADS[name].make()
    bare_s = statistics.median([_step_s(training) for _ in range(_BARE_STEPS)][3:])
    collecting = _Collecting()
    began_s = time.perf_counter()
    scope = attach(training.model, training.optimizer, every=1, quiet=True)
    attach_s = time.perf_counter() - began_s
    first_s = _step_s(training)
    gc.callbacks.remove(collecting)
    if scope.faults or scope.latest().step != 0:
        raise RuntimeError(f"the first step was not observed, the figure is void: {scope.faults}")
    scope.detach()
    extra_s = attach_s + first_s - bare_s
    parts_s = (import_s, attach_s, first_s, bare_s, extra_s, collecting.seconds)
    return {part: 1e3 * each_s for part, each_s in zip(_PARTS, parts_s, strict=True)}


class _Collecting:
    """The time that Python's garbage collector takes, as it tells it itself."""

    def __init__(self) -> None:
        self.seconds = self._began_s = 0.0
        gc.callbacks.append(self)

    def __call__(self, phase: str, _info: dict[str, Any]) -> None:  # Any: as gc says
        if phase == "start":
            self._began_s = time.perf_counter()
        else:
            self.seconds += time.perf_counter() - self._began_s


def _step_s(training: Training) -> float:
    began_s = time.perf_counter()
    training.step()
    return time.perf_counter() - began_s


def _in_fresh_process(name: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="gs-") as place:
        places = {"GRADSCOPE_RUNTIME_DIR": place, "GRADSCOPE_DATA_DIR": place}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.attach", "--child", name],
            env=os.environ | places | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            check=True,
        )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _middle(turns: list[dict[str, float]], part: str) -> str:
    values = [turn[part] for turn in turns]
    return f"{statistics.median(values):.1f} ({max(values):.1f})"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attach", description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=["small", "deep"])
    parser.add_argument("--turns", type=int, default=5, help="fresh processes for each")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--child", choices=WORKLOADS, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
