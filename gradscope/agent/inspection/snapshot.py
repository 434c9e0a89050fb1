"""A way back: the state of before the first intervention, kept on the host, and put back bit for bit.

Kept are the model's parameters and buffers, its optimizers' states and settings, and the random states
of torch, CUDA, Python and NumPy. Not kept, for nobody here knows of them: where the data loader stands,
learning-rate schedulers, a GradScaler, averages of the weights, the script's own counters. Gradients
that lie in `.grad` are left alone, and the count of steps goes on.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.agent.commands.queue import Prepared, QueuedCommand
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import UsageError
from gradscope.intervene import Ledger
from gradscope.protocol import Command

__all__ = ["NOT_RESTORED", "Snapshot"]

NOT_RESTORED: Final = (
    "the data loader's position, learning-rate schedulers, GradScaler and the script's own counters "
    "stay where they are"
)


@dataclass(frozen=True, slots=True)
class _Kept:
    """One point. `tensors` are the model's by name; of each optimizer its groups and its states."""

    step: int
    tensors: dict[str, torch.Tensor]
    optimizers: tuple[tuple[Optimizer, list[dict[str, Any]], list[dict[str, Any]]], ...]
    torch_state: torch.Tensor
    cuda_states: list[torch.Tensor]
    python_state: tuple[Any, ...]
    numpy_state: dict[str, Any]


class Snapshot(StepPlugin):
    """Keeps the state right before the first intervention takes effect, where that was asked for.

    With `save` and `restore` of the script's own, those are called instead: `save(step)`, `restore()`.
    `note(code, text)` makes an event. It rests until something is asked of the ledger: who hears of it
    wakes it.
    """

    name = "the way back"

    def __init__(
        self,
        ledger: Ledger,
        model: Callable[[], nn.Module | None],
        known: Callable[[], Iterable[Optimizer]],
        note: Callable[[str, str], None],
    ) -> None:
        self._ledger = ledger
        self._model = model
        self._known = known
        self._note = note
        self._is_wanted = False
        self._optimizers: tuple[Optimizer, ...] = ()
        self._save: Callable[[int], object] | None = None
        self._restore: Callable[[], object] | None = None
        self._kept: _Kept | None = None
        self._saved_at: int | None = None
        self._undo: list[QueuedCommand] = []

    @property
    def step(self) -> int | None:
        """The step before which the state was kept; None while there is none."""
        return self._saved_at

    def want(
        self,
        optimizers: Sequence[Optimizer],
        save: Callable[[int], object] | None,
        restore: Callable[[], object] | None,
    ) -> None:
        """Keep the state at the next first intervention. Raises UsageError for one callback alone."""
        if (save is None) != (restore is None):
            raise UsageError("a way back of your own needs both save=… and restore=…, got one of them")
        self._optimizers, self._save, self._restore = tuple(optimizers), save, restore
        self._is_wanted = True

    def before_settle(self, step: int) -> None:
        """Keep the state where the first intervention is about to take effect."""
        self.rest()
        if not self._is_wanted or self._saved_at is not None:
            return
        entries = self._ledger.entries()
        if not entries or any(entry.active_since is not None for entry in entries):
            return
        self._saved_at = step
        if self._save is not None:
            self._save(step)
        else:
            self._kept = self._keep(step)
        self._note("way-back", f"the state before step {step} is kept; undo goes back to it")

    def check(self) -> None:
        """Raise UsageError where there is nothing to go back to."""
        if not self._is_wanted:
            raise UsageError(
                "no way back was kept: call scope.keep_way_back() before the first intervention"
            )
        if self._saved_at is None:
            raise UsageError("nothing to undo: no intervention has been in force since keep_way_back()")

    def go_back(self) -> None:
        """Put the state back, between two steps. Raises UsageError where there is none."""
        self.check()
        since = self._saved_at
        if self._restore is not None:
            self._restore()
        elif self._kept is not None:
            self._put_back(self._kept)
        self._kept, self._saved_at = None, None
        self._note("undo", f"back to the state before step {since}; {NOT_RESTORED}")

    def commands(self) -> dict[str, Callable[[Command], Prepared]]:
        """Return how to prepare the command `undo`."""
        return {"undo": self._prepare_undo}

    def close(self) -> None:
        """Let go of what was kept."""
        self._kept = None

    def _prepare_undo(self, command: Command) -> Prepared:  # noqa: ARG002 - one shape for all
        def apply(turn: QueuedCommand) -> None:
            self.check()

            def done(step: int) -> None:
                self.go_back()
                turn.done(step)

            self._ledger.remove_all(done)

        return apply

    def _keep(self, step: int) -> _Kept:
        model = self._model()
        tensors = {} if model is None else {n: _on_host(t) for n, t in _tensors_of(model)}
        return _Kept(
            step,
            tensors,
            tuple(_state_of(each) for each in self._optimizers or list(self._known())),
            torch.get_rng_state(),
            torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]  # torch leaves it untyped
            random.getstate(),
            np.random.get_state(legacy=False),  # noqa: NPY002 - the global one is the script's
        )

    def _put_back(self, kept: _Kept) -> None:
        model = self._model()
        with torch.no_grad():
            for name, tensor in _tensors_of(model) if model is not None else ():
                if name in kept.tensors:
                    _local(tensor).copy_(kept.tensors[name])
        for optimizer, groups, states in kept.optimizers:
            _put_back_optimizer(optimizer, groups, states)
        torch.set_rng_state(kept.torch_state)
        if kept.cuda_states:
            torch.cuda.set_rng_state_all(kept.cuda_states)
        random.setstate(kept.python_state)
        np.random.set_state(kept.numpy_state)  # noqa: NPY002 - as above


def _tensors_of(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return parameters and buffers, also those that no checkpoint has."""
    return [*model.named_parameters(), *model.named_buffers()]


def _local(tensor: torch.Tensor) -> torch.Tensor:
    to_local = getattr(tensor, "to_local", None)
    local: torch.Tensor = tensor.detach() if to_local is None else to_local().detach()
    return local


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    return _local(tensor).to("cpu", copy=True)


def _state_of(
    optimizer: Optimizer,
) -> tuple[Optimizer, list[dict[str, Any]], list[dict[str, Any]]]:
    """Return an optimizer's settings by group and its state by parameter, tensors as copies."""
    groups = [{k: _copied(v) for k, v in g.items() if k != "params"} for g in optimizer.param_groups]
    states = [
        {name: _copied(value) for name, value in optimizer.state.get(parameter, {}).items()}
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
    return optimizer, groups, states


def _copied(value: Any) -> Any:  # Any: whatever an optimizer keeps
    if isinstance(value, torch.Tensor):
        return _on_host(value)
    if isinstance(value, list | tuple):
        return type(value)(_copied(each) for each in value)
    if isinstance(value, dict):
        return {name: _copied(each) for name, each in value.items()}
    return value


def _put_back_optimizer(
    optimizer: Optimizer, groups: list[dict[str, Any]], states: list[dict[str, Any]]
) -> None:
    for group, kept in zip(optimizer.param_groups, groups, strict=False):
        for name, value in kept.items():
            group[name] = _restored(group.get(name), value, None)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, state in zip(parameters, states, strict=False):
        there = optimizer.state.get(parameter, {})
        if state:
            optimizer.state[parameter] = {
                name: _restored(there.get(name), value, parameter) for name, value in state.items()
            }
        else:
            optimizer.state.pop(parameter, None)


def _restored(there: Any, kept: Any, parameter: torch.Tensor | None) -> Any:  # Any: as above
    """Return a kept value; a tensor is written into the one that is there, which so stays itself."""
    if isinstance(kept, torch.Tensor):
        if isinstance(there, torch.Tensor) and _local(there).shape == kept.shape:
            with torch.no_grad():
                _local(there).copy_(kept)
            return there
        device = "cpu" if parameter is None else parameter.device
        return kept.clone() if kept.dim() == 0 else kept.to(device, copy=True)
    if isinstance(kept, list | tuple):
        return type(kept)(_restored(None, each, parameter) for each in kept)
    if isinstance(kept, dict):
        return {name: _restored(None, each, parameter) for name, each in kept.items()}
    return kept
