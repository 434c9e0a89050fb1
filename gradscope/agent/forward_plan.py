"""Which modules the forward hook sees in a step, and what it finds for each."""

import weakref
from collections.abc import Mapping, Sequence

from torch import nn

from gradscope.hooks import LayerInfo, SlotTable
from gradscope.intervene import Applied
from gradscope.observe import LayerSlot

__all__ = ["ForwardPlan", "Slot"]


class Slot:
    """What the forward hook finds for a layer: what to observe, and what to lay over its output."""

    __slots__ = ("chain", "is_watched", "layer", "name")

    def __init__(self, layer: LayerInfo) -> None:
        self.name = layer.name
        self.layer = LayerSlot(layer)
        self.is_watched = layer.is_watched
        self.chain: tuple[Applied, ...] = ()


class ForwardPlan:
    """The slots of a model's layers. Modules are held weakly.

    In an observed step the hook sees all watched layers and those with an intervention; in any other,
    only the latter, and where there are none it is not needed.
    """

    def __init__(self, layers: Sequence[LayerInfo]) -> None:
        self._modules = {layer.name: weakref.ref(layer.module) for layer in layers}
        self._slots = {layer.name: Slot(layer) for layer in layers}
        self._observed = SlotTable((m, slot) for m, slot in self._alive(self._slots) if slot.is_watched)
        self._changed: SlotTable[Slot] = SlotTable(())
        self._both = self._observed

    def lay(self, chains: Mapping[str, tuple[Applied, ...]]) -> None:
        """Put the interventions in force on their layers, and take all others off."""
        for name, slot in self._slots.items():
            slot.chain = chains.get(name, ())
        self._changed = SlotTable(self._alive(chains))
        self._both = self._observed | self._changed if chains else self._observed

    def watched(self) -> list[tuple[nn.Module, int]]:
        """Return the watched modules that are alive, each with the index of its layer."""
        return [(m, slot.layer.index) for m, slot in self._alive(self._slots) if slot.is_watched]

    def table(self, *, is_observed: bool) -> SlotTable[Slot] | None:
        """Return the modules to watch in a step; None where no hook is needed."""
        if is_observed:
            return self._both
        return self._changed if len(self._changed) else None

    def _alive(self, names: Mapping[str, object]) -> list[tuple[nn.Module, Slot]]:
        pairs = [(self._modules[name](), self._slots[name]) for name in names if name in self._slots]
        return [(module, slot) for module, slot in pairs if module is not None]
