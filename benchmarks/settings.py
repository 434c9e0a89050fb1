"""What a model is trained under: nothing, empty hooks, or gradscope in several ways."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

from torch import Tensor, nn

import gradscope
from benchmarks.workloads import Training

__all__ = ["SETTINGS", "Setting"]


@dataclass(frozen=True, slots=True)
class Setting:
    """`warm_up` steps are run untimed once it is on. A sampled one is averaged, not its median taken."""

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


def _every_step(training: Training) -> AbstractContextManager[object]:
    return gradscope.attach(training.model, training.optimizer, every=1, quiet=True)


def _every_step_full(training: Training) -> AbstractContextManager[object]:
    return gradscope.attach(training.model, training.optimizer, every=1, detail="full", quiet=True)


def _default(training: Training) -> AbstractContextManager[object]:
    return gradscope.attach(training.model, training.optimizer, quiet=True)


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting("A/A", "the bare program once more", lambda _: nullcontext()),
        Setting("floor", "empty hooks on each leaf module and its output", _empty_hooks),
        Setting("core", "attached, every step observed, streamed to a hub", _every_step),
        Setting("full", "the same at full detail", _every_step_full),
        Setting("budget", "attached as by default, after 50 steps", _default, 50, is_sampled=True),
    )
}
