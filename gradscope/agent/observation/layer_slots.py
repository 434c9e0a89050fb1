"""The modules that the forward hook handles in a step, with the data that it needs for each."""

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from gradscope.hooks import LayerInfo, SlotTable, original_module
from gradscope.intervene import ActiveIntervention
from gradscope.observe import LayerSlot

__all__ = ["Call", "Chain", "LayerSlots", "Slot"]

Chain: TypeAlias = tuple[ActiveIntervention, ...]
"""The interventions at one site of one layer, in the order in which they were set."""


@dataclass(frozen=True, slots=True)
class Call:
    """The inputs of one call of a layer: the first tensor, and the copies that replace inputs."""

    first: torch.Tensor | None
    copies: tuple[tuple[torch.Tensor, int], ...]


class Slot:
    """The data of the hooks for one layer: what to observe, and its interventions on output and inputs.

    `focus_layer` is used in focus steps, if the layer is in the focus. `calls` are the forward calls in
    progress, if `needs_input`.
    """

    __slots__ = ("calls", "chain", "focus_layer", "input_chain", "is_watched", "layer", "name")

    def __init__(self, layer: LayerInfo) -> None:
        self.name = layer.name
        self.layer = LayerSlot(layer)
        self.focus_layer: LayerSlot | None = None
        self.is_watched = layer.is_watched
        self.chain: Chain = ()
        self.input_chain: Chain = ()
        self.calls: list[Call] = []

    @property
    def needs_input(self) -> bool:
        """Whether the hooks need the layer's inputs: they are changed, or the gradient bypasses the layer."""
        return bool(self.input_chain) or any(a.action.spec.what == "passage" for a in self.chain)


class LayerSlots:
    """The slots of a model's layers. Holds weak references to the modules.

    The forward hook handles: in an observed step all watched layers and all layers with an
    intervention; in a focus step the layers in the focus and those with an intervention; in any other
    step only the layers with an intervention. If there are none, the hook is not needed.
    """

    def __init__(self, layers: Sequence[LayerInfo]) -> None:
        self._modules = {layer.name: weakref.ref(layer.module) for layer in layers}
        self._slots = {layer.name: Slot(layer) for layer in layers}
        alive = self._alive(self._slots)
        self._all = SlotTable(alive)
        self._observed = SlotTable((module, slot) for module, slot in alive if slot.is_watched)
        self._changed: SlotTable[Slot] = SlotTable(())
        self._focused: SlotTable[Slot] = SlotTable(())
        self._both = self._observed

    def assign_interventions(self, outputs: Mapping[str, Chain], inputs: Mapping[str, Chain]) -> None:
        """Set the interventions of this step on their layers, and clear those of all other layers."""
        for name, slot in self._slots.items():
            slot.chain, slot.input_chain = outputs.get(name, ()), inputs.get(name, ())
            slot.calls.clear()
        changed = {**outputs, **inputs}
        self._changed = SlotTable(self._alive(changed))
        self._both = self._observed | self._changed if changed else self._observed

    def focus(self, names: Sequence[str]) -> list[LayerInfo]:
        """Set the layers to observe in focus steps. Return the ones that exist."""
        for slot in self._slots.values():
            slot.focus_layer = None
        there = self._alive(dict.fromkeys(names))
        layers = [
            LayerInfo(
                slot.layer.index, slot.name, module, True, dict(module.named_parameters(recurse=False))
            )
            for module, slot in there
        ]
        for (_, slot), layer in zip(there, layers, strict=True):
            slot.focus_layer = LayerSlot(layer)
        self._focused = SlotTable(there)
        return layers

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all layers."""
        return tuple(self._slots)

    def owns(self, module: nn.Module) -> bool:
        """Return whether a module belongs to the model; also True for the wrapper that torch.compile returns."""
        return self._all.find(original_module(module)) is not None

    @property
    def is_changed(self) -> bool:
        """Whether any intervention acts on a layer in this step."""
        return len(self._changed) > 0

    def watched(self) -> list[tuple[nn.Module, int]]:
        """Return the watched modules that are alive, each with the index of its layer."""
        return [(m, slot.layer.index) for m, slot in self._alive(self._slots) if slot.is_watched]

    def with_inputs(self) -> list[tuple[nn.Module, Slot]]:
        """Return the modules whose inputs the hooks need, each with its slot."""
        return [(m, slot) for m, slot in self._alive(self._slots) if slot.needs_input]

    def modules(self) -> dict[str, nn.Module]:
        """Return the modules that are alive, by name."""
        alive = {name: reference() for name, reference in self._modules.items()}
        return {name: module for name, module in alive.items() if module is not None}

    def table(self, *, is_observed: bool, is_focus: bool = False) -> SlotTable[Slot] | None:
        """Return the modules that the hook handles in a step; None if no hook is needed."""
        if is_observed:
            return self._both
        if is_focus:
            return self._focused | self._changed
        return self._changed if len(self._changed) else None

    def _alive(self, names: Mapping[str, object]) -> list[tuple[nn.Module, Slot]]:
        pairs = [(self._modules[name](), self._slots[name]) for name in names if name in self._slots]
        return [(module, slot) for module, slot in pairs if module is not None]
