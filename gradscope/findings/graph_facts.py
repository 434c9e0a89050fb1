"""`GraphFacts`: the autograd graph of one backward pass, as plain data."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Consumers", "GraphFacts", "GraphNode"]

Consumers: TypeAlias = Sequence[Sequence[int]]

_SHAPE_ONLY = frozenset(
    {
        *("View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Transpose", "T", "Permute"),
        *("Select", "Slice", "Clone", "ToCopy", "Alias", "AsStrided", "Identity", "Detach"),
    }
)
"""Operations that move elements and do not change them."""


@dataclass(frozen=True, slots=True)
class GraphNode:
    """One operation of the forward pass. `inputs` are positions in `GraphFacts.nodes`; -1 for a constant.

    operation: PyTorch's name without "Backward0" ("Addmm", "LogSoftmax"). shape: of its output; None if
        not known. dim: of a softmax. parameter: the name of the parameter, for a leaf that is one.
    sequence: the number that autograd gave to it; it counts the operations of a thread. -1 if not known.
    """

    operation: str
    shape: tuple[int, ...] | None
    inputs: tuple[int, ...] = ()
    dim: int | None = None
    parameter: str | None = None
    sequence: int = -1


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """The operations between a loss and the parameters. `nodes[0]` is the loss; each precedes its inputs.

    activations: for "Softmax", "Sigmoid" and "Relu", the names of the modules of that type, in order.
    """

    step: int
    nodes: Sequence[GraphNode]
    activations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def source(self, position: int, *, linear: bool = False) -> int:
        """Follow operations that only change the shape; return the position of the one that computes.

        linear: also follow a multiplication by constants, such as that of Dropout. -1 for a constant.
        """
        while position >= 0 and self.keeps_values(position, linear=linear):
            position = next(each for each in self.nodes[position].inputs if each >= 0)
        return position

    def keeps_values(self, position: int, *, linear: bool = False) -> bool:
        """Return whether an operation only changes the shape. linear: or multiplies by constants."""
        node = self.nodes[position]
        moving = [each for each in node.inputs if each >= 0]
        is_scaled = linear and node.operation in ("Mul", "Div", "NativeDropout") and len(moving) == 1
        return bool(moving) and (node.operation in _SHAPE_ONLY or is_scaled)

    def consumers(self) -> Consumers:
        """Return, for each operation, the positions of the operations that use its result."""
        users: list[list[int]] = [[] for _ in self.nodes]
        for position, node in enumerate(self.nodes):
            for each in node.inputs:
                if each >= 0:
                    users[each].append(position)
        return users

    def named(self, operation: str) -> Iterator[tuple[int, GraphNode]]:
        """Iterate over the nodes of one operation, the nearest to the loss first."""
        return (
            (position, node) for position, node in enumerate(self.nodes) if node.operation == operation
        )

    def layer_of(self, position: int) -> str | None:
        """Return the layer of the parameter nearest to an operation; None if there is none."""
        seen, queue = {position}, [position]
        for current in queue:
            node = self.nodes[current]
            if node.parameter is not None:
                return node.parameter.rpartition(".")[0]
            fresh = [each for each in node.inputs if each >= 0 and each not in seen]
            seen.update(fresh)
            queue += fresh
        return None
