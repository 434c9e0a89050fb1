"""The input of the checks as plain data; no tensor is read.

`WiringFacts`: how model, parameters and optimizers are connected in one step. `GraphFacts`: the autograd graph of one
backward pass.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = [
    "Consumers",
    "GraphFacts",
    "GraphNode",
    "LayerFacts",
    "OptimizerFacts",
    "OutputForm",
    "ParameterFacts",
    "WiringFacts",
]


@dataclass(frozen=True, slots=True)
class ParameterFacts:
    """One name of a parameter. A parameter with two names (tied weights) has two entries.

    layer: the name of the module that owns it. key: equal for two names of the same tensor.
    optimizers: positions in `WiringFacts.optimizers`.
    has_gradient: whether the optimizer finds a gradient. left_gradient: whether the gradient of an
        earlier step was still there when the backward pass began; None if that was not checked.
    is_registered: False for a parameter in a plain list or dict, which `model.parameters()` does not have.
    """

    name: str
    layer: str
    key: int
    shape: tuple[int, ...]
    is_trainable: bool
    has_gradient: bool
    optimizers: tuple[int, ...] = ()
    left_gradient: bool | None = None
    is_registered: bool = True

    @property
    def size(self) -> int:
        """The number of elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size


@dataclass(frozen=True, slots=True)
class OutputForm:
    """The number format ("float32") and the number of dimensions of an output."""

    dtype: str
    rank: int


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """One module. `type` is the name of its class.

    has_run: whether it ran in the forward pass; None if the step was not observed.
    depends_on_mode: whether it computes something else in eval mode: Dropout, BatchNorm.
    dropout: the probability of a Dropout, or of that inside of an LSTM or an attention. channels: of a
        BatchNorm; 0 for other modules.
    values_per_channel: over how many values a BatchNorm normalizes; None if not known.
    form, first_form: of its output, now and when the run began; None if not known, or if it has several.
    has_run_without_graph: whether it ran in training mode, but only under no_grad; None if the step was not watched.
    """

    name: str
    type: str
    is_training: bool
    has_run: bool | None = None
    depends_on_mode: bool = False
    dropout: float | None = None
    channels: int = 0
    values_per_channel: float | None = None
    form: OutputForm | None = None
    first_form: OutputForm | None = None
    has_run_without_graph: bool | None = None


@dataclass(frozen=True, slots=True)
class OptimizerFacts:
    """One optimizer that holds parameters of the model, or that was named in `attach`.

    has_stepped: whether it stepped in this step. held: how many tensors it holds. foreign_shapes: the
    shapes of the tensors among them that the model does not have. has_gradient: whether any of its
    tensors had a gradient when it stepped.
    """

    type: str
    has_stepped: bool
    held: int
    foreign_shapes: tuple[tuple[int, ...], ...] = ()
    has_gradient: bool = True
    is_unwritten: bool = False


@dataclass(frozen=True, slots=True)
class WiringFacts:
    """The facts of one step, taken when the optimizers have stepped.

    is_training: whether the model itself is in training mode. layers: in the order of `named_modules`.
    tied_at_attach: groups of names that shared one parameter when the run began.
    clipped_at_scale: the loss scale that gradients still had when the script clipped them, 1 if they had none; None
        if they were not clipped, or if that was not checked.
    """

    step: int
    is_training: bool
    parameters: tuple[ParameterFacts, ...]
    layers: tuple[LayerFacts, ...]
    optimizers: tuple[OptimizerFacts, ...]
    tied_at_attach: tuple[tuple[str, ...], ...] = ()
    clipped_at_scale: float | None = None


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
