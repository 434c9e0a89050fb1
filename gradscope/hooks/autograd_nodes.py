"""Finds the nodes of an autograd graph, and the custom Functions among them. Saved tensors are not unpacked."""

from collections.abc import Iterable, Iterator

from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import Node

__all__ = ["find_functions", "find_nodes"]


def find_nodes(tensors: Iterable[Tensor]) -> Iterator[Node]:
    """Yield each node of the graph behind some tensors once, in no particular order.

    A node holds the tensors that it saved: do not keep nodes longer than needed.
    """
    waiting = [tensor.grad_fn for tensor in tensors]
    seen: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        waiting.extend(following for following, _ in node.next_functions)


def find_functions(tensors: Iterable[Tensor]) -> tuple[type[Function], ...]:
    """Return each autograd Function class written in Python in the graph behind some tensors once."""
    owners = (getattr(type(node), "_forward_cls", None) for node in find_nodes(tensors))
    return tuple(dict.fromkeys(owner for owner in owners if owner is not None))
