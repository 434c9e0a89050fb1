"""Where gradscope's microseconds go: `python -m benchmarks.anatomy`. README.md says how it is taken."""

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

import gradscope
from benchmarks.settings import SETTINGS
from benchmarks.workloads import WORKLOADS, Training
from gradscope.agent.observation.measurement import Measurement
from gradscope.agent.observation.model_tracker import ModelTracker
from gradscope.agent.observation.observed_step import PendingStep
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugins
from gradscope.budget import Sampler
from gradscope.observe import ParameterObserver, RowBuffer

MODULES = 100
_TURNS = 5
_STEPS = 100
_WARM_UP = 250
"""From the 200th observed step on, rules that only tell no longer judge each."""

SPANS: tuple[tuple[type, str], ...] = (
    (StepEngine, "_before_optimizer"),
    (ModelTracker, "follow_parameters"),
    (Measurement, "before_optimizer"),
    (RowBuffer, "add_gradients"),
    (RowBuffer, "add_each"),
    (StepEngine, "_after_optimizer"),
    (ParameterObserver, "after"),
    (RowBuffer, "add_changes"),
    (StepEngine, "_end"),
    (RowBuffer, "read_out"),
    (PendingStep, "observed"),
    (Sampler, "record"),
    (StepEngine, "_begin"),
)
"""What is timed around the optimizer's step; a later one may lie within an earlier one."""

BEYOND = "optimizer.step(), beyond a bare one"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print two tables, and write them where that was asked for."""
    options = _options(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="gs-") as place:
        os.environ["GRADSCOPE_RUNTIME_DIR"] = os.environ["GRADSCOPE_DATA_DIR"] = place
        hooks, around = hook_costs(), {name: around_optimizer(name) for name in options.workloads}
    print(f"\nmicroseconds a module of {MODULES}, the least of {_TURNS} turns")
    for name, (forward, backward) in hooks.items():
        print(f"  {name:28} forward {forward:6.2f}  backward {backward:6.2f}")
    for name, spans in around.items():
        print(f"\nmicroseconds a step around the optimizer of `{name}`: idle, observed; lower decile")
        for span, (rest, observed) in spans.items():
            print(f"  {span:48}{_shown(rest)}{_shown(observed)}")
    if options.json is not None:
        report = {"hooks": hooks, "around": around}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _shown(value: float | None) -> str:
    return f"{'' if value is None else f'{value:.1f}':>10}"


# --- the hooks on modules and gradients -----------------------------------------------------------


def hook_costs() -> dict[str, tuple[float, float]]:
    """Return by setting what a module takes forward and backward, in microseconds."""
    model = nn.Sequential(*(nn.Hardtanh() for _ in range(MODULES)), nn.Linear(64, 1))
    x = torch.randn(32, 64, requires_grad=True)
    training = Training(model, torch.optim.SGD(model.parameters(), lr=1e-9), lambda: model(x).sum())
    settings: dict[str, Callable[[Training], AbstractContextManager[object]]] = {
        "bare": SETTINGS["A/A"].on,
        "a global hook, doing nothing": lambda _: _idle_hook(),
        "empty hooks on both (floor)": SETTINGS["floor"].on,
        "core": SETTINGS["core"].on,
        "full": SETTINGS["full"].on,
    }
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(_TURNS):
        for name, on in settings.items():
            with on(training):
                _passes_us(training, 20)
                found[name].append(_passes_us(training, _STEPS))
    return {n: (min(f for f, _ in turns), min(b for _, b in turns)) for n, turns in found.items()}


@contextmanager
def _idle_hook() -> Iterator[None]:
    handle = register_module_forward_hook(lambda _module, _args, _output: None)
    try:
        yield
    finally:
        handle.remove()


def _passes_us(training: Training, count: int) -> tuple[float, float]:
    """Train a number of steps; return the lower decile of a module's share of each pass."""
    forward_s, backward_s = [], []
    for _ in range(count):
        training.optimizer.zero_grad()
        began_s = time.perf_counter()
        loss = training.loss()
        between_s = time.perf_counter()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        backward_s.append(time.perf_counter() - between_s)
        forward_s.append(between_s - began_s)
        training.optimizer.step()
    return _decile_us(forward_s) / MODULES, _decile_us(backward_s) / MODULES


# --- around the optimizer's step --------------------------------------------------------------------


def around_optimizer(workload: str) -> dict[str, tuple[float | None, float | None]]:
    """Return by span the microseconds of an idle step, and of an observed one."""
    training = WORKLOADS[workload].make()
    rest_us, observed_us = _beyond_bare_us(training)
    spans = {BEYOND: (rest_us, observed_us)}
    return spans | {name: (None, us) for name, us in _spans_us(training, every=1).items()}


def _beyond_bare_us(training: Training) -> tuple[float, float]:
    """Return what `optimizer.step()` takes beyond a bare one, in turns: idle, and observed."""
    bare: list[float] = []
    attached: dict[int, list[float]] = {10**6: [], 1: []}
    for _ in range(_TURNS):
        bare += _optimizer_s(training)
        for every, times_s in attached.items():
            with gradscope.attach(training.model, training.optimizer, quiet=True, every=every):
                times_s.extend(_optimizer_s(training))
    idle_us, observed_us = (_decile_us(times_s) - _decile_us(bare) for times_s in attached.values())
    return idle_us, observed_us


def _optimizer_s(training: Training) -> list[float]:
    times_s = []
    for step in range(_WARM_UP + _STEPS):
        training.optimizer.zero_grad()
        training.loss().backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        began_s = time.perf_counter()
        training.optimizer.step()
        if step >= _WARM_UP:
            times_s.append(time.perf_counter() - began_s)
    return times_s


def _spans_us(training: Training, *, every: int) -> dict[str, float]:
    taken: dict[str, list[float]] = defaultdict(list)
    with (
        _timed(taken),
        gradscope.attach(training.model, training.optimizer, quiet=True, every=every) as scope,
    ):
        for _ in range(_WARM_UP):
            training.step()
        taken.clear()
        for _ in range(_STEPS):
            training.step()
        if scope.faults:
            raise RuntimeError(
                f"gradscope failed in the benchmark, the figures are void: {scope.faults}"
            )
        return {name: _decile_us(times) for name, times in taken.items() if len(times) >= _STEPS}


@contextmanager
def _timed(taken: dict[str, list[float]]) -> Iterator[None]:
    """Have each span, and each part of the step, note how long it took. That adds half of one."""
    before = [(owner, name, getattr(owner, name)) for owner, name in SPANS]
    sort = StepPlugins._sort  # noqa: SLF001 - a look inside is what this is for

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:  # Any: as it is called
        def call(*args: Any, **keywords: Any) -> Any:
            began_s = time.perf_counter()
            result = function(*args, **keywords)
            taken[name].append(time.perf_counter() - began_s)
            return result

        return call

    def sort_timed(parts: StepPlugins) -> None:
        sort(parts)
        parts._overriding = {  # noqa: SLF001 - as above
            event: tuple((part, timed(f"part: {part.name}, {event}", method)) for part, method in pairs)
            for event, pairs in parts._overriding.items()  # noqa: SLF001 - as above
        }

    try:
        for owner, name, function in before:
            setattr(owner, name, timed(f"{owner.__name__}.{name}", function))
        StepPlugins._sort = sort_timed  # type: ignore[method-assign, assignment]  # noqa: SLF001 - put back below
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)
        StepPlugins._sort = sort  # type: ignore[method-assign]  # noqa: SLF001 - as above


def _decile_us(times_s: list[float]) -> float:
    return sorted(times_s)[len(times_s) // 10] * 1e6


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.anatomy", description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=["small"])
    parser.add_argument("--json", type=Path, help="where to write the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
