"""`TrainingWatch`: waits for the training of models, and attaches to them as early as their optimizers are known.

A forward with gradients, the start of a compilation and an optimizer's step are the moments at which it searches;
`trained_models.py` says for what. Each costs one walk over the objects of the process, so the moments are few.
"""

import logging
import os
import weakref
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils.hooks import RemovableHandle

from gradscope.agent.attach import attach_automatically, is_attached
from gradscope.hooks import (
    hidden_from_modes,
    is_in_backward,
    is_traced,
    is_transforming,
    parameters_of,
    quiet_about_global_hooks,
    untraced,
)
from gradscope.launch.loss_log import LossLog
from gradscope.launch.options import LaunchOptions
from gradscope.launch.run_names import RunNames
from gradscope.launch.trained_models import enabled_scaler, find_trained_models, variable_of

__all__ = ["TrainingWatch"]

_log = logging.getLogger("gradscope")

_PASSES_LIMIT: Final = 64
"""After this number of forward passes without a trained model, only an optimizer's step starts a search."""

_MODELS_LIMIT: Final = 8
"""The most models of a script that are observed at the same time; each has a thread and a recording."""


class TrainingWatch:
    """Attaches to the models that optimizers train. Nothing here raises an error in the script.

    Attributes:
        has_seen_step: whether any optimizer of the process has stepped.
        has_observed: whether any model was attached, by this object or by the script.
    """

    def __init__(self, options: LaunchOptions) -> None:
        self._options = options
        self._names = RunNames(options.name)
        self._handle: RemovableHandle | None = None
        self._undo_quiet: Callable[[], None] | None = None
        self._passes: dict[int, tuple[weakref.ref[nn.Module], int]] = {}
        self._inner: dict[int, weakref.ref[nn.Module]] = {}
        self._known: dict[int, tuple[weakref.ref[Optimizer], int]] = {}
        self._attached: list[weakref.ref[nn.Module]] = []
        self._is_late = False
        self._is_searching = False
        self._has_warned = False
        self._late_updated: set[int] = set()
        self.has_seen_step = False
        self.has_observed = False

    def install(self) -> None:
        """Install the hooks on optimizers, and wait for the first forward."""
        register_optimizer_step_pre_hook(self._on_step_begin)
        register_optimizer_step_post_hook(self._on_step_end)
        self._wait_for_forward()

    def observe_compilations(
        self, handler: Any
    ) -> None:  # Any: a class of Dynamo, which is not imported here
        """Find models before Dynamo compiles them: a compiled graph calls only hooks that were installed before."""
        handler.register_start_callback(self._on_compilation)

    def _wait_for_forward(self) -> None:
        if self._handle is None:
            self._undo_quiet = quiet_about_global_hooks()
            self._handle = register_module_forward_pre_hook(self._before_forward)
            self._passes.clear()
            self._inner.clear()

    def _stop_waiting(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.remove()
        if self._undo_quiet is not None:
            self._undo_quiet()
            self._undo_quiet = None

    def _before_forward(self, module: nn.Module, _args: object) -> None:
        if is_traced() or self._is_searching or not torch.is_grad_enabled():
            return
        inner = self._inner.get(id(module))
        if inner is not None and inner() is module:
            return
        if is_in_backward() or is_transforming():
            return
        self._guarded(lambda: self._count_pass(module))

    def _count_pass(self, root: nn.Module) -> None:
        """Search in the 1st, 2nd, 4th … outermost forward of a module."""
        known, count = self._passes.get(id(root), (None, 0))
        count = count + 1 if known is not None and known() is root else 1
        self._passes[id(root)] = weakref.ref(root), count
        if count == 1:
            self._inner |= {id(each): weakref.ref(each) for each in root.modules() if each is not root}
        if self._is_late or count & (count - 1) == 0:
            self._search()
        if count >= _PASSES_LIMIT:
            self._stop_waiting()

    @untraced
    def _on_compilation(self, _args: object) -> None:
        if self._handle is not None and torch.is_grad_enabled() and not self._is_searching:
            self._guarded(self._search)
            self._stop_waiting()  # the graph would contain the hook

    @untraced
    def _on_step_begin(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        known, groups = self._known.get(id(optimizer), (None, 0))
        if known is None or known() is not optimizer or groups != len(optimizer.param_groups):
            self._guarded(lambda: self._on_new_optimizer(optimizer))

    @untraced
    def _on_step_end(self, optimizer: Optimizer, _args: object, _kwargs: object) -> None:
        if self._is_late:
            self._late_updated.update(map(id, parameters_of(optimizer)))

    def _on_new_optimizer(self, optimizer: Optimizer) -> None:
        """Attach before the next forward if this optimizer trains a model that is not attached.

        Not at once: attaching adds hooks to the table that torch is going through.
        """
        self._known[id(optimizer)] = weakref.ref(optimizer), len(optimizer.param_groups)
        self.has_seen_step = True
        held = {id(parameter) for parameter in parameters_of(optimizer)}
        found = [
            each for each in find_trained_models() if held.intersection(map(id, each.parameters()))
        ]
        self.has_observed |= any(map(is_attached, found))
        if any(self._is_new(each) for each in found):
            self._is_late = True
            self._wait_for_forward()

    def _search(self) -> None:
        """Attach to all trained models that are not attached, and stop waiting if there are trained models."""
        found = find_trained_models()
        new = [each for each in found if self._is_new(each)]
        free = _MODELS_LIMIT - sum(each() is not None for each in self._attached)
        if len(new) > free and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "gradscope: the script trains %d models; %d are observed. To choose others, call "
                "gradscope.attach(model) in the script",
                len(new) + _MODELS_LIMIT - free,
                _MODELS_LIMIT,
            )
        kinds = self._names.kinds_of(new, variable_of)
        scaler = enabled_scaler() if new else None
        for kind, model in sorted(zip(kinds, new, strict=True), key=lambda pair: pair[0])[
            : max(0, free)
        ]:
            name = self._names.next_name(kind, is_alone=len(new) == 1)
            self._attach(model, name, scaler)
        if found:
            self._is_late = False
            self._late_updated.clear()
            self._stop_waiting()

    def _attach(self, model: nn.Module, name: str, scaler: GradScaler | None) -> None:
        self._attached.append(weakref.ref(model))
        arguments = self._options.attach_arguments()
        start_step = int(any(id(p) in self._late_updated for p in model.parameters()))
        scope = attach_automatically(
            model, name=name, scaler=scaler, start_step=start_step, **arguments
        )
        self.has_observed = True
        scope.when_detached(self._wait_for_forward)
        if not scope.is_detached:  # GRADSCOPE=0
            losses = LossLog(scope, model)
            losses.install()
            scope.when_detached(losses.remove)

    def _is_new(self, model: nn.Module) -> bool:
        return not is_attached(model) and all(each() is not model for each in self._attached)

    def _guarded(self, work: Callable[[], None]) -> None:
        if os.getpid() != self._options.pid and not self._options.follows_children:
            return  # a forked process
        self._is_searching = True
        try:
            with hidden_from_modes():
                work()
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the script
            self._stop_waiting()
            _log.warning(
                "gradscope: a model of the script was not attached: %s: %s. The script continues",
                type(error).__name__,
                error,
            )
        finally:
            self._is_searching = False
