"""`ClipWatch`: whether the script clips gradients that are still multiplied by the loss scale."""

import gc
import weakref
from collections.abc import Callable

import torch
from torch.amp.grad_scaler import GradScaler, OptState
from torch.optim import Optimizer

from gradscope.hooks import ClippingHook

__all__ = ["ClipWatch"]


class ClipWatch:
    """Watches torch's clipping functions in steps chosen by the caller, from `begin` to `end`.

    knows: whether any of the tensors is a parameter of the model. scaler: that of `attach`; without one, the
    scalers of the process are searched for when gradients are clipped for the first time, which takes some 10 ms.
    """

    def __init__(self, knows: Callable[[list[torch.Tensor]], bool], scaler: GradScaler | None) -> None:
        self._knows = knows
        self._scalers = None if scaler is None else [weakref.ref(scaler)]
        self._hook = ClippingHook(self._before)
        self._is_installed = False
        self._is_clipped = False
        self._scales: list[tuple[weakref.ref[GradScaler], float]] = []
        self._scale = 1.0

    def begin(self) -> None:
        """Watch this step."""
        self._is_clipped, self._scale = False, 1.0
        self._scales.clear()
        if not self._is_installed:
            self._is_installed = self._hook.install()

    def end(self) -> float | None:
        """Return the loss scale of the gradients that were clipped, 1 if they had none; None if none were clipped."""
        if self._is_installed:
            self._hook.remove()
            self._is_installed = False
        return self._scale if self._is_clipped else None

    def before_optimizer(self, optimizer: Optimizer) -> None:
        """Count the scales of the scalers that step this optimizer: a process may have scalers of other models."""
        for each, scale in self._scales:
            scaler = each()
            if scaler is not None and id(optimizer) in scaler._per_optimizer_states:  # noqa: SLF001 - no public name
                self._scale = max(self._scale, scale)

    def _before(self, parameters: list[torch.Tensor], _total_norm: torch.Tensor | None) -> None:
        """Note the scale. A scaler has a state for each optimizer whose gradients it has unscaled."""
        if not self._knows(parameters):
            return
        if self._scalers is None:
            self._scalers = [
                weakref.ref(each) for each in gc.get_objects() if issubclass(type(each), GradScaler)
            ]
        self._is_clipped = True
        self._scales += [
            (each, _scale_of(scaler))
            for each in self._scalers
            if (scaler := each()) is not None and scaler.is_enabled()
        ]


def _scale_of(scaler: GradScaler) -> float:
    """Return the scale of the gradients: 1 if the scaler is not in use or has unscaled any. Waits for the device."""
    scale: torch.Tensor | None = scaler._scale  # noqa: SLF001 - None until the scaler is used
    states = scaler._per_optimizer_states.values()  # noqa: SLF001 - no public name
    is_scaled = scale is not None and all(state["stage"] is OptState.READY for state in states)
    return float(scale) if is_scaled and scale is not None else 1.0
