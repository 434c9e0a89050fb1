"""Applies interventions to the gradients of parameters, just before the optimizer steps.

`.grad` keeps the changed values afterwards.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.agent.observation.layer_slots import LayerSlots
from gradscope.hooks import is_sharded, local_part, parameters_of
from gradscope.intervene import LedgerEntry, Unit

__all__ = ["ParameterInterventions", "RecordArriving", "parameters_below"]

RecordArriving = Callable[[Sequence[nn.Parameter]], None]


def parameters_below(
    modules: Mapping[str, nn.Module], layers: Sequence[str]
) -> dict[str, list[nn.Parameter]]:
    """Return the parameters of layers and their submodules, without duplicates, by owning module."""
    owners = [
        name
        for name in modules
        if any(layer in ("", name) or name.startswith(f"{layer}.") for layer in layers)
    ]
    found: dict[str, list[nn.Parameter]] = {}
    seen: set[int] = set()
    for name in owners:
        own = [p for p in modules[name].parameters(recurse=False) if id(p) not in seen]
        seen.update(map(id, own))
        if own:
            found[name] = own
    return found


class ParameterInterventions:
    """Changes `.grad` of parameters in place. `assign_interventions` sets the interventions of a step."""

    def __init__(self) -> None:
        self._plan: LayerSlots | None = None
        self._entries: tuple[LedgerEntry, ...] = ()

    @property
    def is_needed(self) -> bool:
        """Whether an intervention acts on parameters."""
        return bool(self._entries)

    def assign_interventions(self, plan: LayerSlots, entries: Sequence[LedgerEntry]) -> None:
        """Set the interventions that act on parameters in this step, in order."""
        self._plan = plan
        self._entries = tuple(entry for entry in entries if entry.request.site == "params")

    def change(self, optimizer: Optimizer, record_arriving: RecordArriving | None) -> None:
        """Change the gradients that an optimizer is about to use. `.grad` keeps the changed values.

        If the optimizer itself divides the gradients by a loss scale (a fused optimizer), the
        interventions take that scale into account.
        """
        if self._plan is None or not self._entries:
            return
        theirs = {id(p) for p in parameters_of(optimizer)}
        modules = self._plan.modules()
        groups = [
            [[p for p in own if id(p) in theirs and p.grad is not None] for own in below.values()]
            for below in (parameters_below(modules, entry.layers) for entry in self._entries)
        ]
        if record_arriving is not None:
            observed = {id(p): p for group in groups for own in group for p in own}
            record_arriving(list(observed.values()))
        scale = getattr(optimizer, "grad_scale", None)
        with torch.no_grad():
            for entry, own in zip(self._entries, groups, strict=True):
                try:
                    _change_gradients(entry, own, lambda: scale)
                except Exception as error:  # noqa: BLE001 - ours must not become the training's
                    entry.intervention.fail(f"{type(error).__name__}: {error}")


def _change_gradients(entry: LedgerEntry, groups: Sequence[Sequence[nn.Parameter]], unit: Unit) -> None:
    per = entry.request.arguments.get("per", "tensor")
    if per == "all":
        groups = [[p for group in groups for p in group]]
    elif per == "tensor":
        groups = [[p] for group in groups for p in group]
    is_shared = not any(is_sharded(p) for group in groups for p in group)
    made: list[tuple[nn.Parameter, torch.Tensor, torch.Tensor]] = []
    for group in groups:
        if group:
            places = [_changeable_part(p) for p in group]
            changed = entry.intervention.apply_to_gradients(places, unit, is_shared=is_shared)
            made += zip(group, places, changed, strict=True)
    if entry.intervention.failure:
        return  # all or none: nothing was written yet
    for parameter, old, new in made:
        if new is not old:
            _write_back(parameter, old, new)


def _changeable_part(parameter: nn.Parameter) -> torch.Tensor:
    """Return the tensor to change: the values of a sparse gradient, the local shard of a sharded one."""
    gradient = parameter.grad
    assert gradient is not None, "chosen because it has one"  # noqa: S101 - says so to the type checker
    gradient = gradient.detach()
    if gradient.layout is torch.sparse_coo:
        return gradient.coalesce().values()
    return local_part(gradient)


def _write_back(parameter: nn.Parameter, old: torch.Tensor, new: torch.Tensor) -> None:
    """Write the changed elements back, in place if possible, because other code may hold the tensor."""
    gradient = parameter.grad
    if gradient is not None and gradient.layout is torch.sparse_coo:
        coalesced = gradient.detach().coalesce()
        coalesced.values().copy_(new)
        parameter.grad = coalesced
    elif torch._debug_has_internal_overlap(old) == 0:  # noqa: SLF001 - no public name
        old.copy_(new)
    else:
        parameter.grad = new
