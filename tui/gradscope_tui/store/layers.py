"""`LayerTree`: the layers of a manifest as a tree, by the dots in their names.

Node i is layer i of the manifest. Its parent is the layer with the longest dotted prefix of its name. The
model itself, whose name is empty, is the parent of all others if the manifest lists it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.protocol import Layer

__all__ = ["LayerTree", "build_tree"]

_Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class LayerTree:
    """`order` lists the nodes from top to bottom, parents first; the other tuples are indexed by node.

    `label` is the name without its parent's name. `place` is the index in `order`, `end` the index after
    the last descendant. `family_ancestor[j]` is an ancestor of `family_node[j]`, or the node itself.
    """

    layers: tuple[Layer, ...]
    parent: tuple[int, ...]
    depth: tuple[int, ...]
    label: tuple[str, ...]
    order: tuple[int, ...]
    place: tuple[int, ...]
    end: tuple[int, ...]
    family_node: _Indices
    family_ancestor: _Indices

    def __len__(self) -> int:
        return len(self.layers)

    def is_container(self, node: int) -> bool:
        """Return whether the node has layers below it."""
        return self.end[node] > self.place[node] + 1

    def below(self, node: int) -> tuple[int, ...]:
        """Return all nodes below a node, in order."""
        return self.order[self.place[node] + 1 : self.end[node]]

    def above(self, node: int) -> tuple[int, ...]:
        """Return the containers of a node, the nearest first."""
        return tuple(_ancestors(node, self.parent)[1:])

    def find(self, name: str) -> int | None:
        """Return the node of that name, or None."""
        return next((i for i, layer in enumerate(self.layers) if layer.name == name), None)


def build_tree(layers: Sequence[Layer]) -> LayerTree:
    """Return the tree of a manifest's layers."""
    index = {layer.name: i for i, layer in enumerate(layers)}
    parent = tuple(_parent(layer.name, index) for layer in layers)
    children: list[list[int]] = [[] for _ in range(len(layers) + 1)]
    for node, above in enumerate(parent):
        children[above].append(node)
    order, depth, end = _order_depth_end(children, len(layers))
    place = [0] * len(layers)
    for i, node in enumerate(order):
        place[node] = i
    families = [(node, above) for node in range(len(layers)) for above in _ancestors(node, parent)]
    family = np.array(families, np.intp).reshape(-1, 2)
    return LayerTree(
        layers=tuple(layers),
        parent=parent,
        depth=tuple(depth),
        label=tuple(_label(i, layers, parent) for i in range(len(layers))),
        order=tuple(order),
        place=tuple(place),
        end=tuple(end),
        family_node=family[:, 0],
        family_ancestor=family[:, 1],
    )


def _parent(name: str, index: dict[str, int]) -> int:
    if not name:
        return -1
    prefix = name.rpartition(".")[0]
    while prefix and prefix not in index:
        prefix = prefix.rpartition(".")[0]
    return index.get(prefix, -1)


def _order_depth_end(children: list[list[int]], count: int) -> tuple[list[int], list[int], list[int]]:
    """Return order, depth and end. Without recursion, because models can be nested deeply."""
    order: list[int] = []
    depth, end = [0] * count, [0] * count
    stack = [(node, 0, False) for node in reversed(children[-1])]
    while stack:
        node, level, is_done = stack.pop()
        if is_done:
            end[node] = len(order)
            continue
        order.append(node)
        depth[node] = level
        stack.append((node, level, True))
        stack.extend((child, level + 1, False) for child in reversed(children[node]))
    return order, depth, end


def _ancestors(node: int, parent: Sequence[int]) -> list[int]:
    line = []
    while node >= 0:
        line.append(node)
        node = parent[node]
    return line


def _label(node: int, layers: Sequence[Layer], parent: Sequence[int]) -> str:
    name = layers[node].name
    if not name:
        return f"({layers[node].type})"
    above = layers[parent[node]].name if parent[node] >= 0 else ""
    return name[len(above) + 1 :] if above else name
