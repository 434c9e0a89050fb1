"""What a model is trained under: nothing, empty hooks, or gradscope in several ways."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import gradscope
from benchmarks.workloads import Training
from gradscope.budget import OBSERVED_AT_START

__all__ = ["SETTINGS", "Setting"]

_WARM_UP = OBSERVED_AT_START + 50
"""The first steps are all observed; then the cost is learnt and the interval found, which takes some 50 steps."""


@dataclass(frozen=True, slots=True)
class Setting:
    """`warm_up` steps are run untimed once it is on. A sampled one is averaged, no median taken."""

    name: str
    what: str
    on: Callable[[Training], AbstractContextManager[object]]
    warm_up: int = 3
    is_sampled: bool = False


@contextmanager
def _empty_hooks(training: Training) -> Iterator[None]:
    """Hooks that do nothing: a forward hook on each leaf module, and one on its output's gradient."""
    leaves = [m for m in training.model.modules() if not any(True for _ in m.children())]
    handles = [leaf.register_forward_hook(_empty_forward_hook) for leaf in leaves]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _empty_forward_hook(_module: nn.Module, _args: object, output: Tensor) -> None:
    if output.requires_grad:
        output.register_hook(_empty_tensor_hook)  # type: ignore[no-untyped-call]  # torch leaves it untyped


def _empty_tensor_hook(_gradient: Tensor) -> None:
    return None


def _attached(
    **options: Any,
) -> Callable[[Training], AbstractContextManager[None]]:  # Any: attach's own
    """Return what attaches gradscope, and afterwards makes sure that it did measure."""

    @contextmanager
    def on(training: Training) -> Iterator[None]:
        named = training.optimizer if training.second is None else None
        with gradscope.attach(training.model, named, quiet=True, **options) as scope:
            yield
            _check(scope, training.model)

    return on


def _check(scope: gradscope.Scope, model: nn.Module) -> None:
    """Raise where a fault had switched observing off, or a layer with parameters was not measured.

    A run that measures nothing is fast: without this it would pass for a good one.
    """
    if scope.faults:
        raise RuntimeError(f"gradscope failed in the benchmark, the figure is void: {scope.faults}")
    table = scope.latest()
    for name, module in model.named_modules():
        if name and not any(True for _ in module.children()) and list(module.parameters()):
            for kind in ("out", "grad", "param_grad", "update"):
                if not table[name][kind].is_measured:
                    raise RuntimeError(f"{kind} of {name} was not measured, the figure is void")


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("A/A", "the bare program once more", lambda _: nullcontext()),
        Setting("floor", "empty hooks on each leaf module and its output", _empty_hooks),
        Setting("core", "attached, every step observed, streamed to a hub", _attached(every=1)),
        Setting("full", "the same at full detail", _attached(every=1, detail="full")),
        Setting(
            "digest",
            "as core, with digests of all tensors, inputs and random states",
            _attached(every=1, digest=True),
        ),
        Setting(
            "budget",
            f"attached as by default, after {_WARM_UP} steps",
            _attached(),
            _WARM_UP,
            is_sampled=True,
        ),
        Setting(
            "budgeted",
            f"the same with digests, after {_WARM_UP} steps",
            _attached(digest=True),
            _WARM_UP,
            is_sampled=True,
        ),
    )
}
