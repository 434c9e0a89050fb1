"""Interventions at work: put into force between two steps, laid over the layers as they compute.

On its way back a gradient meets what acts at a place in the order in which it was set; so does a value
on its way forward. Where a place has both, values are changed first, nearest to the layer, and the
gradient comes to them last.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from gradscope.agent.interventions.apply_parameters import ParameterInterventions, SeeArriving
from gradscope.agent.interventions.no_effect_warnings import NoEffectWarnings
from gradscope.agent.observation.layer_slots import Call, Chain, LayerSlots, Slot
from gradscope.agent.run.faults import Faults
from gradscope.hooks import EagerStance, InputHook, find_tensors, is_transforming, replace_tensors
from gradscope.intervene import ActiveIntervention, Ledger, Unit

__all__ = ["ForwardInterventions"]

_WRITES = (
    "the layer writes into its input in place, and whoever else uses that tensor relies on it: it "
    "cannot be copied there; change the gradient at the output of the layer before"
)


class ForwardInterventions:
    """Lays the interventions of a ledger over a model's layers. `unit`: the loss scale in backward."""

    def __init__(self, ledger: Ledger, faults: Faults, idle: NoEffectWarnings, unit: Unit) -> None:
        self._ledger = ledger
        self._faults = faults
        self._idle = idle
        self._unit = unit
        self._inputs: InputHook[Slot] = InputHook(self._over_inputs)
        self._parameters = ParameterInterventions()
        self._stance = EagerStance()
        self._with_inputs: list[Slot] = []

    @property
    def is_at_rest(self) -> bool:
        """Whether nothing is in force, and nothing was asked for."""
        return self._ledger.is_at_rest

    def settle(self, step: int, plan: LayerSlots) -> None:
        """Let requests and ends take effect before `step` begins."""
        for slot in self._with_inputs:
            slot.calls.clear()  # of forwards that never came to their end
        if self._ledger.settle(step):
            self.lay(plan)

    def lay(self, plan: LayerSlots) -> None:
        """Put what acts in this step on the layers of a plan."""
        outputs, inputs = (self._ledger.by_layer(site) for site in ("output", "input"))
        plan.lay(outputs, inputs)
        self._parameters.lay(plan, self._ledger.acting())
        self._stance.force(bool(outputs or inputs))
        slots = plan.with_inputs()
        self._with_inputs = [slot for _, slot in slots]
        if slots:
            self._inputs.watch(slots)
        else:
            self._inputs.remove()

    def close(self) -> None:
        """Take everything off."""
        self._inputs.remove()
        self._stance.force(False)

    def over_output(
        self, slot: Slot, output: Any, see_arriving: Callable[[Slot, torch.Tensor], None] | None
    ) -> Any:  # Any: whatever a module returns
        """Return a layer's output with its interventions; `see_arriving` watches what comes to them."""
        call = slot.calls.pop() if slot.calls else None
        if call is not None:
            _look_for_writing(slot, call)
        if not slot.chain:
            return output

        def see(tensors: list[torch.Tensor]) -> None:
            if see_arriving is not None:
                for tensor in tensors:
                    see_arriving(slot, tensor)

        return self._laid(slot, output, slot.chain, see, call)

    def before_optimizer(self, optimizer: Optimizer, see_arriving: SeeArriving | None) -> None:
        """Change the gradients of an optimizer's parameters, as they are just before it steps."""
        self._parameters.change(optimizer, see_arriving)

    @property
    def changes_parameters(self) -> bool:
        """Whether gradients of parameters are changed in this step."""
        return self._parameters.is_needed

    def judge(self, step: int, *, is_observed: bool) -> None:
        """End a step: say what stood in force for the first time and did nothing."""
        self._idle.judge(step, self._ledger.acting(), is_observed=is_observed)

    def _over_inputs(
        self, slot: Slot, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:  # Any: whatever a module takes
        first = next((tensor for _, tensor in find_tensors(args)), None)
        given = (args, kwargs)
        changed: tuple[tuple[Any, ...], dict[str, Any]]
        changed = self._laid(slot, given, slot.input_chain, lambda _: None, None)
        before = {id(tensor) for _, tensor in find_tensors(given)}
        laid = [tensor for _, tensor in find_tensors(changed) if id(tensor) not in before]
        versions = () if is_transforming() else tuple((t, t._version) for t in laid)  # noqa: SLF001 - torch's counter
        slot.calls.append(Call(first, versions))
        return changed

    def _laid(
        self,
        slot: Slot,
        structure: Any,  # Any: whatever a module takes or returns
        chain: Chain,
        see: Callable[[list[torch.Tensor]], None],
        call: Call | None,
    ) -> Any:
        """Return a structure whose tensors have what acts on them: values first, gradients after."""
        try:
            for intervention in chain:
                if intervention.action.spec.what == "value":
                    structure = self._over(slot, structure, intervention, needs_gradient=False)
                elif intervention.action.spec.what == "passage" and call is not None:
                    structure = _passed(intervention, call, structure)
            if torch.is_grad_enabled():
                for intervention in reversed(chain):
                    if intervention.action.spec.what == "gradient":
                        structure = self._over(slot, structure, intervention, needs_gradient=True)
                see([tensor for _, tensor in find_tensors(structure) if tensor.requires_grad])
        except Exception as error:  # noqa: BLE001 - ours must not become the training's
            self._faults.report("an intervention", error, "What it was laid over stays as it was.")
        return structure

    def _over(
        self, slot: Slot, structure: Any, intervention: ActiveIntervention, *, needs_gradient: bool
    ) -> Any:
        tensors = [t for _, t in find_tensors(structure) if t.requires_grad or not needs_gradient]
        laid = iter(intervention.apply_forward(tensors, slot.name, self._unit)) if tensors else iter(())
        return replace_tensors(
            structure, lambda t: next(laid) if t.requires_grad or not needs_gradient else t
        )


def _passed(
    intervention: ActiveIntervention, call: Call, output: Any
) -> Any:  # Any: whatever a module returns
    """Return an output whose gradient goes to the layer's first input."""
    found: Sequence[tuple[str, torch.Tensor]] = list(find_tensors(output))
    if call.first is None or len(found) != 1:
        intervention.fail(
            f"a gradient passes straight from one tensor to another; {len(found)} came out"
        )
        return output
    first = call.first
    return replace_tensors(output, lambda tensor: intervention.bypass(first, tensor))


def _look_for_writing(slot: Slot, call: Call) -> None:
    """Take off what was laid over an input that the layer has written into."""
    if any(tensor._version != version for tensor, version in call.laid):  # noqa: SLF001 - as above
        for intervention in slot.input_chain:
            intervention.fail(_WRITES)
