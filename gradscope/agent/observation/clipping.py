"""Gradients as they were before the script clipped them: in observed steps, and their norm in all."""

from collections.abc import Callable

import torch

from gradscope.agent.run.faults import Faults
from gradscope.agent.step.plugins import StepPlugin
from gradscope.hooks import ClippingHook

__all__ = ["TOTAL_NORM", "ClippingPlugin"]

TOTAL_NORM = "grad_norm_before_clip"
"""The scalar that tells the norm over all gradients, as `clip_grad_norm_` has computed it."""


class ClippingPlugin(StepPlugin):
    """Watches torch's clipping functions until it is closed.

    `see(parameters)` may measure gradients that are about to be clipped, and returns whether any of
    them is the model's. `log({name: norm})` is given the norm over them that clipping has computed.
    """

    name = "gradients before clipping"

    def __init__(
        self,
        see: Callable[[list[torch.Tensor]], bool],
        log: Callable[[dict[str, torch.Tensor]], None],
        faults: Faults,
    ) -> None:
        self._see = see
        self._log = log
        self._faults = faults
        self._hook = ClippingHook(self._before)
        self._hook.install()

    def close(self) -> None:
        """Watch no longer."""
        self._hook.remove()

    def _before(self, parameters: list[torch.Tensor], total_norm: torch.Tensor | None) -> None:
        try:
            is_ours = self._see(parameters)
            if is_ours and type(total_norm) is torch.Tensor:  # that of a DTensor would be gathered
                self._log({TOTAL_NORM: total_norm})
        except Exception as error:  # noqa: BLE001 - ours must not become the training's
            self._hook.remove()
            self._faults.report(self.name, error, "They are not measured any more; training goes on.")
