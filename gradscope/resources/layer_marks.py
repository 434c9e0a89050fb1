"""The memory in use at each entry and exit of a layer, and the size of the inputs of containers."""

from collections.abc import Set as AbstractSet

from gradscope.hooks import size_bytes_of
from gradscope.resources.autograd_graph import tensors_in
from gradscope.resources.system_memory import SystemMemory

__all__ = ["LayerMemoryMarks"]


class LayerMemoryMarks:
    """Reads the memory counter at each entry and exit of a layer during one step.

    containers: the layers whose inputs are measured, because they contain other layers.
    """

    def __init__(self, machine: SystemMemory, containers: AbstractSet[int]) -> None:
        self._held_bytes = machine.held_bytes
        self._containers = containers
        self.entry: dict[int, int] = {}
        self.exit: dict[int, int] = {}
        self.peak: dict[int, int] = {}
        self.inputs: dict[int, int] = {}

    def clear(self) -> None:
        """Begin a step."""
        for values in (self.entry, self.exit, self.peak, self.inputs):
            values.clear()

    def enter(self, layer: int, args: object) -> None:
        """Record the memory at the entry of a layer, and the size of its inputs."""
        self._record_inputs(layer, args)
        held = self._held_bytes()
        if held is not None:
            self.entry.setdefault(layer, held)
            self.peak[layer] = max(held, self.peak.get(layer, 0))

    def leave(self, layer: int, args: object, kwargs: object) -> None:
        """Record the memory at the exit of a layer."""
        held = self._held_bytes()
        if held is not None:
            self.exit[layer] = held
            self.peak[layer] = max(held, self.peak.get(layer, 0))
        if kwargs:
            self._record_inputs(layer, (args, kwargs))

    def _record_inputs(self, layer: int, arguments: object) -> None:
        if layer in self._containers:
            input_bytes = sum(map(size_bytes_of, tensors_in(arguments)))
            self.inputs[layer] = max(input_bytes, self.inputs.get(layer, 0))
