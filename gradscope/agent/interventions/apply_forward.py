"""Applies the active interventions to the inputs and outputs of layers in the forward pass.

Several interventions at one site apply in the order in which they were set: to activations in the
forward pass, and to gradients in the backward pass. If a site has both kinds, activations are changed
first, next to the layer.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from gradscope.agent.interventions.apply_parameters import ParameterInterventions, RecordArriving
from gradscope.agent.interventions.no_effect_warnings import NoEffectWarnings
from gradscope.agent.observation.layer_slots import Call, Chain, LayerSlots, Slot
from gradscope.agent.observation.loss_scale import LossScale
from gradscope.agent.run.context import RunContext
from gradscope.hooks import EagerStance, InputHook, find_tensors, is_transforming, replace_tensors
from gradscope.intervene import ActiveIntervention

__all__ = ["ForwardInterventions"]

_WRITES = (
    "the layer writes into its input in place, so the input cannot be copied; change the gradient at the "
    "output of the layer before"
)


class ForwardInterventions:
    """Applies the interventions of a run to the outputs and inputs of a model's layers."""

    def __init__(self, run: RunContext, warnings: NoEffectWarnings, loss_scale: LossScale) -> None:
        self._ledger = run.ledger
        self._faults = run.faults
        self._no_effect_warnings = warnings
        self._loss_scale = loss_scale
        self._inputs: InputHook[Slot] = InputHook(self._change_inputs)
        self._parameters = ParameterInterventions()
        self._stance = EagerStance()
        self._with_inputs: list[Slot] = []

    @property
    def is_idle(self) -> bool:
        """Whether there is no active intervention and no request."""
        return self._ledger.is_idle

    def settle(self, step: int, plan: LayerSlots) -> None:
        """Apply requests and expiry before `step` begins."""
        for slot in self._with_inputs:
            slot.calls.clear()  # of forward passes that did not finish
        if self._ledger.settle(step):
            self.assign_interventions(plan)

    def assign_interventions(self, plan: LayerSlots) -> None:
        """Assign the interventions of this step to the slots of their layers."""
        outputs, inputs = (self._ledger.by_layer(site) for site in ("output", "input"))
        plan.assign_interventions(outputs, inputs)
        self._parameters.assign_interventions(plan, self._ledger.acting())
        self._stance.force(bool(outputs or inputs))
        slots = plan.with_inputs()
        self._with_inputs = [slot for _, slot in slots]
        if slots:
            self._inputs.watch(slots)
        else:
            self._inputs.remove()

    def close(self) -> None:
        """Remove all hooks."""
        self._inputs.remove()
        self._stance.force(False)

    def over_output(
        self, slot: Slot, output: Any, record_arriving: Callable[[Slot, torch.Tensor], None] | None
    ) -> Any:  # Any: whatever a module returns
        """Return a layer's output with its interventions applied.

        `record_arriving(slot, tensor)` is called for each tensor of the output whose arriving gradient is
        to be observed, that is, the gradient before interventions change it.
        """
        call = slot.calls.pop() if slot.calls else None
        if call is not None:
            _check_for_writing(slot, call)
        if not slot.chain:
            return output

        def record_each(tensors: list[torch.Tensor]) -> None:
            if record_arriving is not None:
                for tensor in tensors:
                    record_arriving(slot, tensor)

        return self._applied(slot, output, slot.chain, record_each, call)

    def before_optimizer(self, optimizer: Optimizer, record_arriving: RecordArriving | None) -> None:
        """Change the gradients of an optimizer's parameters, just before it steps."""
        self._parameters.change(optimizer, record_arriving)

    @property
    def changes_parameters(self) -> bool:
        """Whether an intervention changes gradients of parameters in this step."""
        return self._parameters.is_needed

    def warn_if_without_effect(self, step: int, *, is_observed: bool) -> None:
        """End a step: warn about each intervention that had no effect in its first step."""
        self._no_effect_warnings.warn_if_without_effect(
            step, self._ledger.acting(), is_observed=is_observed
        )

    def _change_inputs(
        self, slot: Slot, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:  # Any: whatever a module takes
        first = next((tensor for _, tensor in find_tensors(args)), None)
        given = (args, kwargs)
        changed: tuple[tuple[Any, ...], dict[str, Any]]
        changed = self._applied(slot, given, slot.input_chain, lambda _: None, None)
        before = {id(tensor) for _, tensor in find_tensors(given)}
        copies = [tensor for _, tensor in find_tensors(changed) if id(tensor) not in before]
        versions = () if is_transforming() else tuple((t, t._version) for t in copies)  # noqa: SLF001 - torch's counter
        slot.calls.append(Call(first, versions))
        return changed

    def _applied(
        self,
        slot: Slot,
        structure: Any,  # Any: whatever a module takes or returns
        chain: Chain,
        record_each: Callable[[list[torch.Tensor]], None],
        call: Call | None,
    ) -> Any:
        """Return `structure` with its interventions applied: to activations first, then to gradients."""
        try:
            for intervention in chain:
                if intervention.action.spec.what == "value":
                    structure = self._apply(slot, structure, intervention, needs_gradient=False)
                elif intervention.action.spec.what == "passage" and call is not None:
                    structure = _replace_with_bypass(intervention, call, structure)
            if torch.is_grad_enabled():
                for intervention in reversed(chain):
                    if intervention.action.spec.what == "gradient":
                        structure = self._apply(slot, structure, intervention, needs_gradient=True)
                record_each([tensor for _, tensor in find_tensors(structure) if tensor.requires_grad])
        except Exception as error:  # noqa: BLE001 - ours must not become the training's
            self._faults.report("an intervention", error, "Its tensors stay unchanged.")
        return structure

    def _apply(
        self, slot: Slot, structure: Any, intervention: ActiveIntervention, *, needs_gradient: bool
    ) -> Any:
        tensors = [t for _, t in find_tensors(structure) if t.requires_grad or not needs_gradient]
        changed = (
            iter(intervention.apply_forward(tensors, slot.name, self._loss_scale.now))
            if tensors
            else iter(())
        )
        return replace_tensors(
            structure, lambda t: next(changed) if t.requires_grad or not needs_gradient else t
        )


def _replace_with_bypass(
    intervention: ActiveIntervention, call: Call, output: Any
) -> Any:  # Any: whatever a module returns
    """Return an output whose gradient is passed to the layer's first input."""
    found: Sequence[tuple[str, torch.Tensor]] = list(find_tensors(output))
    if call.first is None or len(found) != 1:
        intervention.fail(f"straight_through needs a layer with one output tensor, got {len(found)}")
        return output
    first = call.first
    return replace_tensors(output, lambda tensor: intervention.bypass(first, tensor))


def _check_for_writing(slot: Slot, call: Call) -> None:
    """Mark the interventions on an input as failed if the layer has overwritten that input in place."""
    if any(tensor._version != version for tensor, version in call.copies):  # noqa: SLF001 - as above
        for intervention in slot.input_chain:
            intervention.fail(_WRITES)
