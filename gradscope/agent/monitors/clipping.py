"""Observes gradients before the script clips them, in observed steps, and their total norm in all steps."""

import torch

from gradscope.agent.monitors.logged_scalars import LoggedScalars
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.hooks import ClippingHook

__all__ = ["TOTAL_NORM", "ClippingPlugin"]

TOTAL_NORM = "grad_norm_before_clip"
"""The scalar with the norm over all gradients, as computed by `clip_grad_norm_`."""


class ClippingPlugin(StepPlugin):
    """Hooks torch's functions for gradient clipping, between `install` and `close`."""

    name = "gradients before clipping"

    def __init__(self, run: RunContext, engine: StepEngine, scalars: LoggedScalars) -> None:
        self._run = run
        self._engine = engine
        self._scalars = scalars
        self._hook = ClippingHook(self._before)

    def install(self) -> None:
        """Install the hooks."""
        self._hook.install()

    def close(self) -> None:
        """Remove the hooks."""
        self._hook.remove()

    def _before(self, parameters: list[torch.Tensor], total_norm: torch.Tensor | None) -> None:
        try:
            is_ours = self._engine.before_clip(parameters)
            if is_ours and type(total_norm) is torch.Tensor:  # a DTensor would have to be gathered
                self._scalars.log_own({TOTAL_NORM: total_norm})
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self._hook.remove()
            self._run.faults.report(
                self.name, error, "They are not observed any more; training continues."
            )
