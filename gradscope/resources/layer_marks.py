"""What was held when each layer was entered and left, and what those with others in them were given."""

from collections.abc import Set as AbstractSet

from gradscope.resources.autograd_graph import tensors_in
from gradscope.resources.system_memory import SystemMemory

__all__ = ["LayerMarks"]


class LayerMarks:
    """Reads the memory's counter at each entry and exit of one step, from `clear` to `clear`.

    `containers` are the layers of which it is noted what they were given.
    """

    def __init__(self, machine: SystemMemory, containers: AbstractSet[int]) -> None:
        self._held_bytes = machine.held_bytes
        self._containers = containers
        self.entry: dict[int, int] = {}
        self.exit: dict[int, int] = {}
        self.peak: dict[int, int] = {}
        self.inputs: dict[int, int] = {}

    def clear(self) -> None:
        """Begin another step."""
        for kept in (self.entry, self.exit, self.peak, self.inputs):
            kept.clear()

    def enter(self, layer: int, args: object) -> None:
        """Note what is held where a layer is entered for the first time, and what it is given."""
        self._note_given(layer, args)
        held = self._held_bytes()
        if held is not None:
            self.entry.setdefault(layer, held)
            self.peak[layer] = max(held, self.peak.get(layer, 0))

    def leave(self, layer: int, args: object, kwargs: object) -> None:
        """Note what is held where a layer is left."""
        held = self._held_bytes()
        if held is not None:
            self.exit[layer] = held
            self.peak[layer] = max(held, self.peak.get(layer, 0))
        if kwargs:
            self._note_given(layer, (args, kwargs))

    def _note_given(self, layer: int, arguments: object) -> None:
        if layer in self._containers:
            given = sum(t.numel() * t.element_size() for t in tensors_in(arguments))
            self.inputs[layer] = max(given, self.inputs.get(layer, 0))
