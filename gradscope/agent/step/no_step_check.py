"""`NoStepCheck`: says once why no step ends, if the model is trained and no optimizer of it steps."""

import logging
import weakref
from collections.abc import Callable
from typing import Final

import torch
from torch import nn

from gradscope.agent.observation.model_tracker import ModelTracker
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.plugins import StepPlugins
from gradscope.agent.step.unregistered import unregistered_parameters
from gradscope.hooks import (
    gradient_of,
    hidden_from_modes,
    is_in_backward,
    original_module,
)

__all__ = ["NoStepCheck"]

_log = logging.getLogger("gradscope")

_FIRST_CHECK: Final = 8
_ACCUMULATING: Final = 64
"""If gradients are accumulated, no optimizer may step in this many forward passes."""

_NAMED: Final = 4

_NONE: Final = -1
"""The version of a gradient that is None."""

_NO_STEP: Final = (
    "no step has ended in {passes} forward passes with gradients: {why}{unless}. {held}If an "
    "optimizer of other tensors trains the model, name it: attach(model, optimizer=...). If the script updates the "
    "parameters itself, call scope.mark_step() after each update. Until a step ends, nothing can be shown or changed."
)
_NOT_STEPPED: Final = "no optimizer that holds parameters of the model has stepped"
_NOT_TRAINABLE: Final = "the model has no trainable parameters, so no optimizer holds any"
_UNREGISTERED: Final = (
    "Trainable parameters in a plain list or dict are not registered in the model and not observed: {names}. Keep "
    "their layers in an nn.ModuleList or nn.ModuleDict. "
)


class NoStepCheck:
    """Counts the forward passes before the first step has ended. It is called until then.

    The plugins receive the reason in `no_step_ends`.
    """

    def __init__(self, run: RunContext, tracker: ModelTracker, plugins: StepPlugins) -> None:
        self._run = run
        self._tracker = tracker
        self._plugins = plugins
        self._first: weakref.ref[nn.Module] | None = None
        self._calls_of_first = self._calls_of_model = 0
        self._resets = self._certain_resets = 0
        self._next_check = _FIRST_CHECK
        self._versions = (0, _NONE)
        self.is_done = False

    def before_first_optimizer(self) -> None:
        """Report unregistered parameters that are trained, before the first optimizer of the model steps."""
        self.is_done = True
        self._run_guarded(self._report_unregistered)

    def on_forward(self, module: nn.Module) -> None:
        """Count a forward. `module`: any module of the process whose forward has returned."""
        if (
            torch.is_grad_enabled()
            and not self.is_done
            and not is_in_backward()
            and self._is_counted(module)
        ):
            self._run_guarded(self._count_pass)

    def _run_guarded(self, work: Callable[[], None]) -> None:
        try:
            with hidden_from_modes():
                work()
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self.is_done = True
            self._run.faults.report("finding why no step ends", error, "This check is switched off.")

    def _report_unregistered(self) -> None:
        model = self._run.model()
        found = {} if model is None else unregistered_parameters(model)
        trained = [name for name, p in found.items() if gradient_of(p) is not None]
        if trained:
            text = _UNREGISTERED.format(names=_listed(trained)).strip()
            self._report("unregistered-parameters", text)

    def _is_counted(self, module: nn.Module) -> bool:
        """Return whether a call of this module is a pass: the model, or the first layer if that is never called."""
        if not self._tracker.owns(module):
            return False
        model = self._run.model()
        if original_module(module) is model:
            self._calls_of_model += 1
            return True
        if self._first is None:
            self._first = weakref.ref(module)
        self._calls_of_first += self._first() is module
        return self._first() is module and not self._calls_of_model

    def _count_pass(self) -> None:
        model, passes = self._run.model(), self._calls_of_model or self._calls_of_first
        if model is None:
            return
        trained = next((p for p in model.parameters() if p.requires_grad), None)
        if trained is not None:
            self._note_reset(trained)
        if passes < self._next_check:
            return
        self._next_check *= 2
        unregistered = list(unregistered_parameters(model))
        is_updated = trained is None or self._resets >= passes // 2
        is_certain = trained is None or self._certain_resets >= passes // 2
        is_trained = (trained is None and bool(unregistered)) or self._has_gradients(model)
        if is_trained and (is_updated or passes >= _ACCUMULATING):
            self.is_done = True
            held = _UNREGISTERED.format(names=_listed(unregistered)) if unregistered else ""
            text = _NO_STEP.format(
                passes=passes,
                why=_NOT_STEPPED if trained is not None else _NOT_TRAINABLE,
                unless=""
                if is_certain
                else ", unless the script accumulates gradients over more passes",
                held=held,
            )
            self._report("no-step", text)
            self._plugins.call_all("no_step_ends", text)

    def _note_reset(self, parameter: nn.Parameter) -> None:
        """Count a pass since which the parameter was updated or its gradient was reset."""
        gradient, before = gradient_of(parameter), self._versions
        now = self._versions = (
            parameter._version,  # noqa: SLF001 - torch counts the changes of a tensor
            _NONE if gradient is None else gradient._version,  # noqa: SLF001 - as above
        )
        is_certain = _NONE in (now[1], before[1]) or before[0] != now[0]
        self._certain_resets += is_certain
        self._resets += is_certain or now[1] - before[1] > 1  # accumulating changes it once

    def _has_gradients(self, model: nn.Module) -> bool:
        """Return whether a backward pass has reached a parameter or an observed layer in this step."""
        if any(gradient_of(p) is not None for p in model.parameters()):
            return True
        _, block = self._tracker.measurement.peek()
        gradients = [i for i, kind in enumerate(block.kinds) if kind.partition(".")[0] == "grad"]
        calls = block.column("calls")
        return any(int(calls[row]) for row in range(len(block)) if int(block.kind[row]) in gradients)

    def _report(self, code: str, text: str) -> None:
        _log.warning("gradscope: %s", text)
        self._run.event("warning", code, text)


def _listed(names: list[str]) -> str:
    rest = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
