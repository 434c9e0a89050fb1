"""Walks the autograd graph from a loss to the parameters. Keeps no node and reads no saved tensor."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gradscope.findings.facts import GraphFacts, GraphNode

__all__ = ["walk_graph"]

_LIMIT = 20_000
"""The largest number of operations that are read, the nearest to the loss first."""

_ACTIVATIONS = {
    "Softmax": nn.Softmax,
    "LogSoftmax": nn.LogSoftmax,
    "Sigmoid": nn.Sigmoid,
    "Relu": nn.ReLU,
}

_NAME = re.compile(r"^(?:torch::autograd::)?(.*?)(?:Backward)?\d*$")


def walk_graph(tensors: Sequence[torch.Tensor], model: nn.Module, step: int) -> GraphFacts | None:
    """Return the graph below the first tensor; None if it reaches no parameter of the model."""
    root = tensors[0].grad_fn if tensors else None
    if root is None:
        return None
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = [root]
    position_of = {root: 0}
    inputs: list[tuple[int, ...]] = []
    for node in found:
        positions = []
        for following, _ in node.next_functions:
            if following is not None and following not in position_of and len(found) < _LIMIT:
                position_of[following] = len(found)
                found.append(following)
            positions.append(-1 if following is None else position_of.get(following, -1))
        inputs.append(tuple(positions))
    nodes = [_node(node, places, names) for node, places in zip(found, inputs, strict=True)]
    if not any(node.parameter for node in nodes):
        return None
    return GraphFacts(step=step, nodes=nodes, activations=_activations_of(model))


def _node(
    node: Any, inputs: tuple[int, ...], names: Mapping[int, str]
) -> GraphNode:  # Any: torch's nodes have attributes by their operation
    match = _NAME.match(node.name())
    operation = match[1] if match else node.name()
    if operation == "Convolution" and node._saved_transposed:  # noqa: SLF001 - a bool; the public API has none
        operation = "ConvolutionTranspose"
    dim = getattr(node, "_saved_dim", None) if operation in ("Softmax", "LogSoftmax") else None
    variable = getattr(node, "variable", None) if operation == "AccumulateGrad" else None
    return GraphNode(
        operation=operation,
        shape=_shape(node),
        inputs=inputs,
        dim=None if dim is None else dim - 2**64 if dim >= 2**63 else dim,
        parameter=None if variable is None else names.get(id(variable)),
        sequence=-1 if operation == "AccumulateGrad" else node._sequence_nr(),  # noqa: SLF001 - the public API has none
    )


def _shape(node: Any) -> tuple[int, ...] | None:  # Any: as above
    """Return the shape of the first output; None for a nested tensor and for custom nodes without outputs."""
    try:
        return tuple(node._input_metadata[0].shape)  # noqa: SLF001 - the public API has no shapes
    except (AttributeError, IndexError, RuntimeError):
        return None


def _activations_of(model: nn.Module) -> dict[str, tuple[str, ...]]:
    return {
        operation: tuple(name for name, module in model.named_modules() if isinstance(module, kind))
        for operation, kind in _ACTIVATIONS.items()
    }
