"""Reads which tensors an autograd graph saves for its backward pass, without changing the graph.

Only the *raw* saved variables are read. The public `_saved_…` attributes unpack, which runs a checkpoint's forward
again. `saved_tensors_hooks` would change which tensors the graph saves and which errors it raises.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, NamedTuple

import torch
from torch.autograd.graph import Node

from gradscope.hooks import find_nodes, stored_parts

__all__ = ["SavedByNode", "Storage", "operations_behind", "saved_by", "storages_of", "tensors_in"]

_PREFIX: Final = "_raw_saved_"
_LEAF: Final = 2**64 - 1
"""The sequence number of a node that accumulates a leaf's gradient."""

_PLAIN: Final = (torch.Tensor, torch.nn.Parameter)
_SEVERAL: Final = (tuple, list)
_DEPTH_LIMIT: Final = 8
_HOLDERS: Final = {
    "CheckpointFunctionBackward": "checkpoint",
    "CompiledFunctionBackward": "compiled graph",
}


class Storage(NamedTuple):
    """A storage. `key` identifies it while it exists. A tuple, because thousands are created."""

    key: int
    size_bytes: int
    is_host: bool


@dataclass(slots=True)
class SavedByNode:
    """The storages that one node saves.

    holder: the object that holds them instead of the node, such as "checkpoint"; "" if the node holds them.
    frame: a number that all nodes of one checkpoint share; 0 without checkpoint.
    unseen: the reason why a part cannot be read, such as hooks of the user; "" if all can be read.
    """

    sequence: int
    storages: list[Storage] = field(default_factory=list)
    holder: str = ""
    frame: int = 0
    unseen: str = ""


def operations_behind(tensors: Iterable[torch.Tensor]) -> list[Node]:
    """Return the nodes of the operations behind some tensors, in forward order.

    Nodes that accumulate the gradients of leaves are omitted: they save nothing, and outlive the graph. A node
    holds the tensors that it saves, so do not keep the list.
    """
    found: list[tuple[int, Node]] = []
    for node in find_nodes(tensors):
        number = node._sequence_nr()  # noqa: SLF001 - torch has no public name for it
        if number != _LEAF:
            found.append((number, node))
    found.sort(key=lambda pair: pair[0])
    return [node for _, node in found]


def saved_by(node: Node, names: dict[type, tuple[str, ...]]) -> SavedByNode:
    """Return the storages that a node saves. `names` caches the attributes of each type of node."""
    kept = SavedByNode(node._sequence_nr())  # noqa: SLF001 - torch has no public name for it
    kind = type(node)
    kept.holder = _HOLDERS.get(kind.__name__, "")
    attributes = names.get(kind)
    if attributes is None:
        attributes = names[kind] = tuple(name for name in dir(node) if name.startswith(_PREFIX))
    for name in attributes:
        value = getattr(node, name)
        for saved in value if isinstance(value, _SEVERAL) else (value,):
            _add(kept, saved)
    if hasattr(kind, "_forward_cls"):  # a Function written in Python: attributes of its ctx
        _add_tensors(kept, vars(node).values())
    if kind.__name__ == "CopySlices":
        kept.unseen = "an operation in place on a view"
    return kept


def _add(
    kept: SavedByNode, saved: Any
) -> None:  # Any: torch's saved tensor, of which there is no public type
    if saved is None:
        return
    data, unpack = saved.data, saved.unpack_hook
    if isinstance(data, torch.Tensor):
        kept.storages.extend(storages_of(data))
    elif unpack is not None and not _add_checkpoint(kept, unpack) and not _add_tensors(kept, (data,)):
        kept.unseen = "hooks on saved tensors"


def _add_checkpoint(kept: SavedByNode, unpack: object) -> bool:
    """Add the storages that a checkpoint holds; return whether `unpack` belongs to a checkpoint."""
    if "_checkpoint_hook" not in getattr(unpack, "__qualname__", ""):
        return False
    kept.holder = "checkpoint"
    frame = _closed_over(unpack, "frame")
    kept.frame = id(frame)
    held = getattr(frame, "saved_args", None)
    if held is None:
        kept.unseen = "a checkpoint"
        return True
    for saved in held:
        data = getattr(saved, "data", None)
        if isinstance(data, torch.Tensor):
            kept.storages.extend(storages_of(data))
    return True


def _closed_over(function: object, name: str) -> object:
    code, cells = getattr(function, "__code__", None), getattr(function, "__closure__", None)
    if code is None or not cells:
        return None
    held = dict(zip(code.co_freevars, cells, strict=True))
    if name in held:
        return held[name].cell_contents
    inner = (_closed_over(cell.cell_contents, name) for cell in cells if callable(cell.cell_contents))
    return next((found for found in inner if found is not None), None)


def _add_tensors(kept: SavedByNode, values: Iterable[object]) -> bool:
    found = list(chain.from_iterable(map(tensors_in, values)))
    for tensor in found:
        kept.storages.extend(storages_of(tensor))
    return bool(found)


def tensors_in(value: object, depth: int = 0) -> Iterator[torch.Tensor]:
    """Yield the tensors of any dtype in nested tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth < _DEPTH_LIMIT and isinstance(value, tuple | list | Mapping):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(each, depth + 1)


def storages_of(tensor: torch.Tensor) -> Sequence[Storage]:
    """Return the storages of a tensor; none for one without memory of its own (meta, fake, vmapped).

    A subclass that wraps tensors, such as a DTensor, has their storages; a sparse tensor has those of its parts.
    A measured step calls this thousands of times, so the common case is short and creates no generator.
    """
    is_plain = type(tensor) in _PLAIN
    if not is_plain and hasattr(tensor, "__tensor_flatten__"):
        parts = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
        # a DTensor also names its mesh
        return [s for part in parts if isinstance(part, torch.Tensor) for s in storages_of(part)]
    if tensor.layout is not torch.strided:
        return [s for part in stored_parts(tensor) for s in storages_of(part)]
    try:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()  # noqa: SLF001 - the only identity of a storage
        # reading a storage's device is slow; a fake tensor and its storage have different devices
        kind = "cpu" if is_plain and tensor.is_cpu else storage.device.type
    except (NotImplementedError, RuntimeError, ValueError):
        return ()  # the tensor has no storage
    return (Storage(key, size, kind == "cpu"),) if size and kind != "meta" else ()
