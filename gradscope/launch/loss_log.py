"""`LossLog`: logs the loss of a model whose script logs nothing.

    backward(loss) ─▶ a gradient is accumulated in the model ─▶ the loss is logged for the step in progress

The loss of a step is the sum of the scalars at which its backward passes began, as far as their gradients are in the
parameters when the optimizer steps. So the passes of gradient accumulation are added up, and a pass whose gradients
the script has cleared does not count: the first one of SAM, or the one of a generator through a discriminator.
"""

import functools
import logging
import weakref
from collections.abc import Callable
from typing import Final

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from gradscope.agent import Scope
from gradscope.hooks import BackwardRootHook, LossScalerHook, hidden_from_modes, is_in_backward

__all__ = ["LossLog"]

_log = logging.getLogger("gradscope")

_NO_GRADIENT: Final = -1


class LossLog:
    """Logs `loss` to a scope in each step, between `install` and `remove`.

    Two parameters of the model, the first and the last one that are trained, show which backward passes reach it.
    `_versions` has the version counters of their gradients after the newest pass: if they are others when the next
    pass begins, the script has cleared the gradients.
    """

    def __init__(self, scope: Scope, model: nn.Module) -> None:
        self._scope = weakref.ref(scope)
        trained = [each for each in model.parameters() if each.requires_grad and each.is_leaf]
        self._parameters = [
            weakref.ref(each)
            for each in {id(p): p for p in trained[:: max(1, len(trained) - 1)]}.values()
        ]
        self._versions = [_NO_GRADIENT] * len(self._parameters)
        self._handles: list[RemovableHandle] = []
        self._roots = BackwardRootHook(self._on_backward)
        self._scales = LossScalerHook(self._on_scale, _ignore_step)
        self._unscaled: object = None
        self._root: torch.Tensor | None = None
        self._loss: torch.Tensor | None = None

    def install(self) -> None:
        """Install the hooks."""
        self._roots.install()
        self._scales.install()
        for place, reference in enumerate(self._parameters):
            parameter = reference()
            if parameter is not None:
                hook = functools.partial(self._on_gradient, place)
                self._handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]  # torch does not annotate it

    def remove(self) -> None:
        """Remove the hooks."""
        self._roots.remove()
        self._scales.remove()
        self._root = self._loss = self._unscaled = None
        while self._handles:
            self._handles.pop().remove()

    def _on_scale(self, _scaler: GradScaler, loss: object) -> None:
        self._unscaled = loss

    def _on_backward(self, tensors: list[torch.Tensor]) -> None:
        """Keep the scalar at which a backward pass begins, without its graph."""
        if not is_in_backward():  # as it is in a reentrant checkpoint
            unscaled, self._unscaled = self._unscaled, None
            roots = [unscaled] if isinstance(unscaled, torch.Tensor) else tensors
            self._guarded(lambda: self._begin(roots))

    def _begin(self, roots: list[torch.Tensor]) -> None:
        scalars = [each.detach() for each in roots if each.numel() == 1 and each.is_floating_point()]
        self._root = scalars[0] if len(scalars) == len(roots) == 1 else None
        versions = [self._version_of(place) for place in range(len(self._parameters))]
        if versions != self._versions:
            self._versions, self._loss = versions, None

    def _on_gradient(self, place: int, _parameter: torch.Tensor) -> None:
        self._guarded(lambda: self._add(place))

    def _add(self, place: int) -> None:
        self._versions[place] = self._version_of(place)
        root, self._root = self._root, None
        scope = self._scope()
        if root is not None and scope is not None and not scope.is_detached:
            root = root.reshape(())
            self._loss = root.clone() if self._loss is None else self._loss + root
            scope.log(loss=self._loss)

    def _version_of(self, place: int) -> int:
        parameter = self._parameters[place]()
        gradient = None if parameter is None else parameter.grad
        return _NO_GRADIENT if gradient is None else gradient._version  # noqa: SLF001 - torch counts the changes of a tensor

    def _guarded(self, work: Callable[[], None]) -> None:
        """Keep errors of gradscope away from the script: the loss is not logged any more."""
        try:
            with hidden_from_modes(), torch.no_grad():
                work()
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the script
            self.remove()
            kind = type(error).__name__
            _log.warning(
                "gradscope: the loss is not logged any more: %s: %s. The script continues", kind, error
            )


def _ignore_step(_scaler: GradScaler, _optimizer: Optimizer) -> None:
    """Do nothing after a step of the scaler."""
