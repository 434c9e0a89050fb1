"""The snapshot: a copy of the training state before the first intervention, in host memory.

It contains the model's parameters and buffers, the states and settings of the optimizers, and the
random states of torch, CUDA, Python and NumPy; all are restored bit for bit. It does not contain
objects that gradscope does not know: the position of the data loader, learning-rate schedulers, a
GradScaler, averaged weights, and counters of the script. Gradients in `.grad` stay unchanged, and the
step count continues.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.agent.commands.queue import Boundary, Prepared
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import UsageError
from gradscope.hooks import local_part
from gradscope.protocol import Command

__all__ = ["NOT_RESTORED", "Snapshot"]

NOT_RESTORED: Final = (
    "the position of the data loader, learning-rate schedulers, GradScaler and the script's own counters "
    "are not restored"
)


@dataclass(frozen=True, slots=True)
class _TrainingState:
    """A training state: model tensors by name; groups and states of each optimizer; random states."""

    step: int
    tensors: dict[str, torch.Tensor]
    optimizers: tuple[tuple[Optimizer, list[dict[str, Any]], list[dict[str, Any]]], ...]
    torch_state: torch.Tensor
    cuda_states: list[torch.Tensor]
    python_state: tuple[Any, ...]
    numpy_state: dict[str, Any]


class Snapshot(StepPlugin):
    """Takes a snapshot, if enabled, right before the first intervention takes effect.

    If the script gives `save` and `restore`, then `save(step)` and `restore()` are called instead.
    """

    name = "the snapshot"

    def __init__(self, run: RunContext, engine: StepEngine) -> None:
        self._run = run
        self._engine = engine
        self._is_enabled = False
        self._optimizers: tuple[Optimizer, ...] = ()
        self._save: Callable[[int], object] | None = None
        self._restore: Callable[[], object] | None = None
        self._state: _TrainingState | None = None
        self._saved_at: int | None = None
        self._undo: list[Boundary] = []

    @property
    def step(self) -> int | None:
        """The step before which the snapshot was taken; None if there is no snapshot."""
        return self._saved_at

    def enable(
        self,
        optimizers: Sequence[Optimizer],
        save: Callable[[int], object] | None,
        restore: Callable[[], object] | None,
    ) -> None:
        """Enable the snapshot. Raises UsageError if only one of `save` and `restore` is given."""
        if (save is None) != (restore is None):
            raise UsageError("expected both save=… and restore=… or neither, got one of them")
        self._optimizers, self._save, self._restore = tuple(optimizers), save, restore
        self._is_enabled = True

    def next_active_step(self, step: int) -> int | None:
        """Return `step` if the snapshot is enabled and the first intervention is about to take effect."""
        is_wanted = self._is_enabled and self._saved_at is None
        return step if is_wanted and self._run.ledger.entries() else None

    def before_settle(self, step: int) -> None:
        """Take the snapshot if the first intervention is about to take effect."""
        if not self._is_enabled or self._saved_at is not None:
            return
        entries = self._run.ledger.entries()
        if not entries or any(entry.active_since is not None for entry in entries):
            return
        self._saved_at = step
        if self._save is not None:
            self._save(step)
        else:
            self._state = self._copy_state(step)
        self._run.event("info", "snapshot", f"snapshot taken before step {step}; undo restores it")

    def check(self) -> None:
        """Raise UsageError if there is no snapshot."""
        if not self._is_enabled:
            raise UsageError(
                "there is no snapshot to restore: call scope.keep_snapshot() before the first intervention"
            )
        if self._saved_at is None:
            raise UsageError("nothing to undo: no intervention has been active since keep_snapshot()")

    def restore(self) -> None:
        """Restore the snapshot, at a step boundary. Raises UsageError if there is none."""
        self.check()
        since = self._saved_at
        if self._restore is not None:
            self._restore()
        elif self._state is not None:
            self._restore_state(self._state)
        self._state, self._saved_at = None, None
        self._run.event("info", "undo", f"restored the state before step {since}; {NOT_RESTORED}")

    def commands(self) -> dict[str, Callable[[Command], Prepared]]:
        """Return a dict from the action `undo` to the function that validates its command."""
        return {"undo": self._prepare_undo}

    def close(self) -> None:
        """Drop the snapshot."""
        self._state = None

    def _prepare_undo(self, command: Command) -> Prepared:  # noqa: ARG002 - the signature of all command functions
        def apply(command_slot: Boundary) -> None:
            self.check()

            def done(step: int) -> None:
                self.restore()
                command_slot.done(step)

            self._run.ledger.remove_all(done)

        return apply

    def _copy_state(self, step: int) -> _TrainingState:
        model = self._run.model()
        tensors = {} if model is None else {n: _on_host(t) for n, t in _tensors_of(model)}
        return _TrainingState(
            step,
            tensors,
            tuple(_state_of(each) for each in self._optimizers or list(self._engine.optimizers())),
            torch.get_rng_state(),
            torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],  # type: ignore[no-untyped-call]  # torch leaves it untyped
            random.getstate(),
            np.random.get_state(legacy=False),  # noqa: NPY002 - the script uses the global one
        )

    def _restore_state(self, saved: _TrainingState) -> None:
        model = self._run.model()
        with torch.no_grad():
            for name, tensor in _tensors_of(model) if model is not None else ():
                if name in saved.tensors:
                    local_part(tensor).detach().copy_(saved.tensors[name])
        for optimizer, groups, states in saved.optimizers:
            _restore_optimizer(optimizer, groups, states)
        torch.set_rng_state(saved.torch_state)
        if saved.cuda_states:
            torch.cuda.set_rng_state_all(saved.cuda_states)
        random.setstate(saved.python_state)
        np.random.set_state(saved.numpy_state)  # noqa: NPY002 - the script uses the global one


def _tensors_of(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    """Return parameters and buffers, including non-persistent buffers."""
    return [*model.named_parameters(), *model.named_buffers()]


def _on_host(tensor: torch.Tensor) -> torch.Tensor:
    return local_part(tensor).detach().to("cpu", copy=True)


def _state_of(
    optimizer: Optimizer,
) -> tuple[Optimizer, list[dict[str, Any]], list[dict[str, Any]]]:
    """Return an optimizer with copies of its settings by group and its state by parameter."""
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


def _restore_optimizer(
    optimizer: Optimizer, groups: list[dict[str, Any]], states: list[dict[str, Any]]
) -> None:
    for group, saved in zip(optimizer.param_groups, groups, strict=False):
        for name, value in saved.items():
            group[name] = _restored(group.get(name), value, None)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, state in zip(parameters, states, strict=False):
        current = optimizer.state.get(parameter, {})
        if state:
            optimizer.state[parameter] = {
                name: _restored(current.get(name), value, parameter) for name, value in state.items()
            }
        else:
            optimizer.state.pop(parameter, None)


def _restored(current: Any, saved: Any, parameter: torch.Tensor | None) -> Any:  # Any: as above
    """Return a saved value. A saved tensor is copied into the existing tensor, so references stay valid."""
    if isinstance(saved, torch.Tensor):
        if isinstance(current, torch.Tensor) and local_part(current).detach().shape == saved.shape:
            with torch.no_grad():
                local_part(current).detach().copy_(saved)
            return current
        device = "cpu" if parameter is None else parameter.device
        return saved.clone() if saved.dim() == 0 else saved.to(device, copy=True)
    if isinstance(saved, list | tuple):
        return type(saved)(_restored(None, each, parameter) for each in saved)
    if isinstance(saved, dict):
        return {name: _restored(None, each, parameter) for name, each in saved.items()}
    return saved
