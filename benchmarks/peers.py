"""What others' ways of looking cost: `python -m benchmarks.peers`. README.md says how to read it.

By turns with the bare program, as in `benchmarks.overhead`, every step looked at. What people write by
hand, and what they install: TensorBoard and Weights & Biases are measured where they are installed,
`pip install 'gradscope[peers]'`.
"""

import argparse
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.overhead import Result, measure
from benchmarks.settings import SETTINGS, Setting
from benchmarks.workloads import WORKLOADS, Training

__all__ = ["PEERS", "WAYS"]

_BINS = 64


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a table, and write the results where that was asked for."""
    options = _options(arguments)
    torch.set_num_threads(1)
    chosen = [WAYS[name] for name in options.ways]
    results: list[Result] = []
    print(f"torch {torch.__version__}; one thread of {os.cpu_count()} cores")
    print(f"{'workload':10}{'way':24}{'ratio':>8}   {'middle half':17}{'bare step':>12}")
    with tempfile.TemporaryDirectory(prefix="gs-") as place:
        for name in ("GRADSCOPE_RUNTIME_DIR", "GRADSCOPE_DATA_DIR", "WANDB_DIR"):
            os.environ[name] = place
        for workload in options.workloads:
            training = WORKLOADS[workload].make()
            for setting in chosen:
                package = _NEEDS.get(setting.name)
                if package is not None and importlib.util.find_spec(package) is None:
                    print(f"{workload:10}{setting.name:24} not measured: {package} is not installed")
                    continue
                results.append(measure(WORKLOADS[workload], training, setting, options.seconds))
                print(_line(results[-1]), flush=True)
    if options.json is not None:
        whats = {setting.name: setting.what for setting in chosen}
        report = {"ways": whats, "results": [asdict(result) for result in results]}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


class _Seen:
    """Takes the numbers of one step, as a script's own dictionary would."""

    def __init__(self) -> None:
        self.numbers: dict[str, list[float]] = {}
        self.taken = 0

    def take(self, name: str, tensor: Tensor) -> None:
        """Take the six statistics of a tensor, each read back by itself."""
        x = tensor.detach()
        self.taken += 1
        self.numbers[name] = [
            x.mean().item(),
            x.std().item(),
            x.norm().item(),
            x.min().item(),
            x.max().item(),
            x.isnan().sum().item(),
        ]


def _leaves(model: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(n, m) for n, m in model.named_modules() if not any(True for _ in m.children())]


@contextmanager
def _tensor_hooks(training: Training) -> Iterator[None]:
    """Take six statistics of each leaf's output, and of its gradient by a hook on the output."""
    seen = _Seen()

    def on_forward(name: str, _module: nn.Module, _args: object, output: Tensor) -> None:
        seen.take(name, output)
        if output.requires_grad:
            output.register_hook(partial(on_gradient, name))  # type: ignore[no-untyped-call]  # torch leaves it untyped

    def on_gradient(name: str, gradient: Tensor) -> None:
        seen.take(f"{name}.grad", gradient)

    handles = [
        leaf.register_forward_hook(partial(on_forward, n)) for n, leaf in _leaves(training.model)
    ]
    with _until_removed(handles, seen):
        yield


@contextmanager
def _full_backward_hooks(training: Training) -> Iterator[None]:
    """Take the same by `register_full_backward_hook`, which in-place modules do not survive."""
    seen = _Seen()

    def on_forward(name: str, _module: nn.Module, _args: object, output: Tensor) -> None:
        seen.take(name, output)

    def on_backward(name: str, _module: nn.Module, _given: object, gradients: tuple[Any, ...]) -> None:
        seen.take(f"{name}.grad", gradients[0])

    handles: list[Any] = []  # Any: torch gives two kinds of handle, both with remove()
    for name, leaf in _leaves(training.model):
        handles.append(leaf.register_forward_hook(partial(on_forward, name)))
        handles.append(leaf.register_full_backward_hook(partial(on_backward, name)))
    with _until_removed(handles, seen):
        yield


@contextmanager
def _histogram_hooks(training: Training) -> Iterator[None]:
    """Take a histogram of each parameter and of its gradient, where `wandb.watch` does."""
    seen = _Seen()

    def take(name: str, tensor: Tensor) -> None:
        flat = tensor.detach().reshape(-1)
        flat = flat[torch.isfinite(flat)]
        low, high = flat.min().item(), flat.max().item()
        seen.numbers[name] = flat.histc(_BINS, low, high).tolist()
        seen.taken += 1

    def on_forward(name: str, module: nn.Module, _args: object, _output: object) -> None:
        for own, parameter in module.named_parameters(recurse=False):
            take(f"{name}.{own}", parameter)

    def on_gradient(name: str, gradient: Tensor) -> None:
        take(f"{name}.grad", gradient)

    handles: list[Any] = [  # Any: as above
        leaf.register_forward_hook(partial(on_forward, name)) for name, leaf in _leaves(training.model)
    ]
    handles += [
        parameter.register_hook(partial(on_gradient, name))  # type: ignore[no-untyped-call]  # as above
        for name, parameter in training.model.named_parameters()
    ]
    with _until_removed(handles, seen):
        yield


@contextmanager
def _until_removed(handles: Sequence[Any], seen: _Seen) -> Iterator[None]:  # Any: as above
    """Take the hooks off afterwards, and make sure that they did see something."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    if not seen.taken:
        raise RuntimeError("nothing was seen, the figure is void")


@contextmanager
def _tensorboard(training: Training) -> Iterator[None]:
    """Write a histogram of each parameter and of its gradient into TensorBoard's file."""
    from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - optional

    with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:  # type: ignore[no-untyped-call, unused-ignore]  # as above
        steps = 0

        def after_step(*_: object) -> None:
            nonlocal steps
            steps += 1
            for name, parameter in training.model.named_parameters():
                writer.add_histogram(name, parameter, steps)  # type: ignore[no-untyped-call, unused-ignore]  # as above
                writer.add_histogram(f"{name}.grad", parameter.grad, steps)  # type: ignore[no-untyped-call, unused-ignore]  # as above

        handle = training.optimizer.register_step_post_hook(after_step)
        try:
            yield
        finally:
            handle.remove()


@contextmanager
def _wandb(training: Training) -> Iterator[None]:
    """Call `wandb.watch(model, log="all", log_freq=1)`, offline, and `log` in each step."""
    wandb: Any = importlib.import_module("wandb")  # Any: optional
    run = wandb.init(mode="offline", settings=wandb.Settings(silent=True))
    run.watch(training.model, log="all", log_freq=1)
    steps = 0

    def after_step(*_: object) -> None:
        nonlocal steps
        steps += 1
        run.log({"step": steps})

    handle = training.optimizer.register_step_post_hook(after_step)
    try:
        yield
    finally:
        handle.remove()
        run.unwatch(training.model)
        run.finish()
        wandb.teardown()  # its service is a process of its own


def _setting(name: str, what: str, on: Callable[[Training], Any]) -> Setting:  # Any: a context
    return Setting(name, what, on)


PEERS = {
    setting.name: setting
    for setting in (
        _setting("tensor hooks, .item()", "six statistics of outputs and gradients", _tensor_hooks),
        _setting("backward hooks, .item()", "the same by full backward hooks", _full_backward_hooks),
        _setting("histograms by hooks", "parameters' and gradients' histograms", _histogram_hooks),
        _setting("tensorboard", "histograms of parameters and gradients", _tensorboard),
        _setting("wandb.watch, offline", 'log="all", log_freq=1', _wandb),
    )
}
WAYS = {name: SETTINGS[name] for name in ("A/A", "floor", "core", "full")} | PEERS
_NEEDS = {"tensorboard": "tensorboard", "wandb.watch, offline": "wandb"}


def _line(result: Result) -> str:
    half = f"{result.low:.3f} to {result.high:.3f}"
    name = f"{result.workload:10}{result.setting:24}"
    return f"{name}{result.ratio:8.3f}   {half:17}{result.bare_ms:9.2f} ms"


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=["small", "deep"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seconds", type=float, default=15.0, help="about how long for each pair")
    parser.add_argument("--json", type=Path, help="where to write the results")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
