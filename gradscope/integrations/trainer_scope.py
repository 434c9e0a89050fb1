"""`TrainerScope`: a scope on the model of a trainer, with the loss, the learning rate and the step of that trainer.

The loss of a step is the sum of the scalars on which the trainer has called backward: the value whose gradient the
optimizer receives. Under gradient accumulation that is the loss over all micro-batches, in the trainer's own weights.
"""

import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any, Final, TypedDict, TypeVar, cast

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from gradscope.agent import Scope, attach, scope_of
from gradscope.errors import AlertError, UsageError
from gradscope.findings import Finding
from gradscope.hooks import (
    BackwardRootHook,
    LayerPatterns,
    LossScalerHook,
    hidden_from_modes,
    is_in_backward,
)
from gradscope.names import check_options

__all__ = ["AttachOptions", "TrainerScope", "harmless"]

_log = logging.getLogger("gradscope")

_GROUPS_LIMIT: Final = 8
"""Parameter groups of an optimizer whose learning rates are logged; a step has at most 64 scalars."""

_in_use: weakref.WeakSet[Scope] = weakref.WeakSet()
"""The scopes that a callback of a trainer logs to. A second callback of the same model leaves them alone."""


class AttachOptions(TypedDict, total=False):
    """The arguments of `gradscope.attach` that a trainer does not know itself."""

    name: str | None
    layers: LayerPatterns | None
    budget: float | None
    every: int | None
    detail: str
    record: bool | str
    hub: str | None
    control: bool
    memory_limit_bytes: int | None
    resources_every: int | None
    quiet: bool


class TrainerScope:
    """The scope of one training, between `start` and `end`. After an error of gradscope it does nothing more.

    scope: the scope of the newest training; None before the first. is_on: whether it is in progress and observed.
    """

    def __init__(self, options: AttachOptions) -> None:
        check_options(options, AttachOptions.__annotations__, "the callback")
        self._options = options
        self.scope: Scope | None = None
        self.is_on = False
        self._is_owner = False
        self._scaler: GradScaler | None = None
        self._optimizers = 1
        self._loss: torch.Tensor | None = None
        self._unscaled: object = None
        self._roots = BackwardRootHook(self._on_backward)
        self._scales = LossScalerHook(self._on_scale, _ignore_step)
        self._offset = 0
        self._reported: set[tuple[str, tuple[str, ...]]] = set()

    def start(
        self, model: nn.Module, *, step: int, scaler: GradScaler | None = None, optimizers: int = 1
    ) -> None:
        """Attach to a model before its first step, or use the scope that the script has attached.

        step: the trainer's step, which a resumed training does not begin at 0.
        optimizers: the number of optimizers that have a loss of their own.

        Raises UsageError for wrong options. Any other error is reported, and the training runs unobserved.
        """
        self.end()
        try:
            self._start(model, step, scaler, optimizers)
        except UsageError:
            raise
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self.switch_off("attaching", error)

    def log_optimizer(
        self, optimizer: Any, index: int = 0, *, is_complete: bool = True
    ) -> None:  # Any: trainers wrap it
        """Log the loss and the learning rate of a step whose optimizer is about to step.

        is_complete: whether the next backward belongs to the next step.
        """
        values = _rates(optimizer, self._named("lr", index))
        if self._loss is not None:
            values[self._named("loss", index)] = self._loss
        if is_complete:
            self._loss = None
        self._running.log(**values)

    def log(self, values: dict[str, Any]) -> None:  # Any: a number, or a tensor of one element
        """Log values of the trainer."""
        self._running.log(**values)

    def follow_step(self, step: int) -> None:
        """End the step if the trainer counts one whose optimizer the loss scaler has skipped.

        step: the number of steps that the trainer has completed.
        """
        if (
            self._scaler is not None
            and self._optimizers == 1
            and self._running.step < step + self._offset
        ):
            self._running.mark_step()

    def new_findings(self) -> list[Finding]:
        """Return the findings that no earlier call has returned."""
        new = [
            each for each in self._running.findings if (each.code, each.layers) not in self._reported
        ]
        self._reported |= {(each.code, each.layers) for each in new}
        return new

    def end(self, error: BaseException | None = None) -> None:
        """Detach, unless the script has attached itself. `error`: the exception that has ended the training."""
        self._stop_logging()
        if self.scope is not None and self._is_owner and not self.scope.is_detached:
            try:
                self.scope.__exit__(None if error is None else type(error), error, None)
            except Exception as fault:  # noqa: BLE001 - gradscope's errors must not stop the training
                self.switch_off("detaching", fault)

    def switch_off(self, part: str, error: Exception) -> None:
        """Report an error of gradscope, and leave the training alone from now on."""
        self._stop_logging()
        kind = type(error).__name__
        _log.warning("gradscope: %s failed (%s: %s); training continues without it", part, kind, error)

    @property
    def _running(self) -> Scope:
        assert self.scope is not None  # noqa: S101 - callers check is_on
        return self.scope

    def _start(self, model: nn.Module, step: int, scaler: GradScaler | None, optimizers: int) -> None:
        scope = scope_of(model)
        self._is_owner = scope is None
        if scope in _in_use:
            _log.warning(
                "gradscope: another callback observes this model already; this one does nothing"
            )
            return
        if scope is None:
            scope = attach(model, scaler=scaler, start_step=step, **self._options)
        self.scope, self._scaler, self._optimizers = scope, scaler, optimizers
        if scope.is_detached:  # GRADSCOPE=0
            return
        self._offset = 0 if self._is_owner else scope.step - step
        self._reported.clear()
        _in_use.add(scope)
        self._roots.install()
        self._scales.install()
        self.is_on = True

    def _stop_logging(self) -> None:
        self.is_on = False
        self._loss = self._unscaled = None
        self._roots.remove()
        self._scales.remove()
        if self.scope is not None and self._is_owner:
            _in_use.discard(self.scope)

    def _on_scale(self, _scaler: GradScaler, loss: object) -> None:
        self._unscaled = loss

    def _on_backward(self, tensors: list[torch.Tensor]) -> None:
        """Add to the loss of the step. Must not raise: the script is calling."""
        if is_in_backward():  # reentrant checkpointing
            return
        unscaled, self._unscaled = self._unscaled, None
        try:
            with hidden_from_modes(), torch.no_grad():
                for root in [unscaled] if isinstance(unscaled, torch.Tensor) else tensors:
                    if root.numel() == 1 and root.is_floating_point():
                        loss = root.detach().reshape(()).clone()
                        self._loss = loss if self._loss is None else self._loss + loss
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self.switch_off("reading the loss", error)

    def _named(self, what: str, index: int) -> str:
        return what if self._optimizers == 1 else f"{what}_{index + 1}"


_Method = TypeVar("_Method", bound=Callable[..., None])


def harmless(method: _Method) -> _Method:
    """Let a method of a callback run only while its `training` is observed, and raise nothing but AlertError."""

    @functools.wraps(method)
    def call(
        self: Any, *args: Any, **kwargs: Any
    ) -> None:  # Any: the callback, which has a TrainerScope
        training: TrainerScope = self.training
        if not training.is_on:
            return
        try:
            method(self, *args, **kwargs)
        except AlertError:
            raise
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            training.switch_off(method.__name__, error)

    return cast("_Method", call)


def _ignore_step(_scaler: GradScaler, _optimizer: Optimizer) -> None:
    """Do nothing after a step of the scaler: `follow_step` is called by the trainer."""


def _rates(optimizer: Any, name: str) -> dict[str, Any]:  # Any: a float, or a tensor as torch allows
    """Return the learning rate of the first parameter group, and of each other group in which it differs."""
    groups = optimizer.param_groups
    rates = {name: groups[0]["lr"]} if groups and "lr" in groups[0] else {}
    for place, group in enumerate(groups[1:_GROUPS_LIMIT], 1):
        rate = group.get("lr")
        if isinstance(rate, float) and rate != rates.get(name):
            rates[f"{name}_group_{place}"] = rate
    return rates
