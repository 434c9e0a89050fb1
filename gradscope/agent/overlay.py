"""Interventions at work: put into force between two steps, laid over the layers as they compute."""

from collections.abc import Callable
from typing import Any

import torch

from gradscope.agent.faults import Faults
from gradscope.agent.forward_plan import ForwardPlan, Slot
from gradscope.agent.idle import IdleWatch
from gradscope.hooks import replace_tensors
from gradscope.intervene import Ledger

__all__ = ["Overlay"]


class Overlay:
    """Lays the interventions of a ledger over a model's layers."""

    def __init__(self, ledger: Ledger, faults: Faults, idle: IdleWatch) -> None:
        self._ledger = ledger
        self._faults = faults
        self._idle = idle

    def settle(self, step: int, plan: ForwardPlan) -> None:
        """Let requests and ends take effect before `step` begins."""
        if self._ledger.settle(step):
            self.lay(plan)

    def lay(self, plan: ForwardPlan) -> None:
        """Put what is in force on the layers of a plan."""
        plan.lay(self._ledger.by_layer())

    def over_output(
        self, slot: Slot, output: Any, see_arriving: Callable[[Slot, torch.Tensor], None] | None
    ) -> Any:  # Any: whatever a module returns
        """Return a layer's output with its interventions; `see_arriving` watches what comes to them."""
        if not torch.is_grad_enabled():
            return output
        return replace_tensors(output, lambda tensor: self._lay_over(slot, tensor, see_arriving))

    def judge(self, step: int, *, is_observed: bool) -> None:
        """End a step: say what stood in force for the first time and did nothing."""
        self._idle.judge(step, self._ledger.active(), is_observed=is_observed)

    def _lay_over(
        self,
        slot: Slot,
        tensor: torch.Tensor,
        see_arriving: Callable[[Slot, torch.Tensor], None] | None,
    ) -> torch.Tensor:
        """Return the tensor with the layer's interventions on its gradient, the first set outermost."""
        if not tensor.requires_grad:
            return tensor
        changed = tensor
        try:
            for applied in reversed(slot.chain):
                changed = applied(changed)
            if see_arriving is not None:
                see_arriving(slot, changed)
        except Exception as error:  # noqa: BLE001 - ours must not become the training's
            self._faults.report("an intervention", error, "This gradient was left as it was.")
            return tensor
        self._idle.note_acted(slot.name)
        return changed
