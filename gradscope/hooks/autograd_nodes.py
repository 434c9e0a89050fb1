"""The nodes of an autograd graph, and the custom Functions among them. Nothing is unpacked or changed."""

from collections.abc import Iterable, Iterator

from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import Node

__all__ = ["find_functions", "find_nodes"]


def find_nodes(tensors: Iterable[Tensor]) -> Iterator[Node]:
    """Yield the nodes of the graph behind some tensors, each once, in no particular order.

    A node holds the tensors that it saved: keep no node longer than needed.
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
    """Return the autograd Function classes, written in Python, in the graph behind some tensors, each once."""
    owners = (getattr(type(node), "_forward_cls", None) for node in find_nodes(tensors))
    return tuple(dict.fromkeys(owner for owner in owners if owner is not None))
