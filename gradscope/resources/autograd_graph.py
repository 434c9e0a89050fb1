"""What an autograd graph keeps for its backward pass: a walk that reads and changes nothing.

Read is only what PyTorch calls the *raw* saved variables. The public `_saved_…` attributes unpack,
which runs a checkpoint's forward again; `saved_tensors_hooks` change what the graph keeps and what it
refuses.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, NamedTuple

import torch
from torch.autograd.graph import Node

from gradscope.hooks import find_nodes

__all__ = ["SavedByNode", "Storage", "operations_behind", "saved_by", "storages_of", "tensors_in"]

_PREFIX: Final = "_raw_saved_"
_LEAF: Final = 2**64 - 1
"""The number of a node that belongs to no operation: it gathers a leaf's gradient."""

_PLAIN: Final = (torch.Tensor, torch.nn.Parameter)
_SEVERAL: Final = (tuple, list)
_DEPTH_LIMIT: Final = 8
_HOLDERS: Final = {
    "CheckpointFunctionBackward": "checkpoint",
    "CompiledFunctionBackward": "compiled graph",
}


class Storage(NamedTuple):
    """A piece of memory. `key` names it as long as it lives. A tuple, since thousands are made."""

    key: int
    size_bytes: int
    is_host: bool


@dataclass(slots=True)
class SavedByNode:
    """What one node keeps. `holder` names what keeps it in the node's stead, as a checkpoint does.

    `frame` is the same number for all nodes that one checkpoint stands for; 0 for none.

    `unseen` says in a word what is held but cannot be read: under hooks of the user's, or behind an
    operation in place on a view.
    """

    sequence: int
    storages: list[Storage] = field(default_factory=list)
    holder: str = ""
    frame: int = 0
    unseen: str = ""


def operations_behind(tensors: Iterable[torch.Tensor]) -> list[Node]:
    """Return the nodes of the operations that led to these tensors, the first one first.

    The nodes that only gather the gradients of leaves are left out: they keep nothing, and outlive the
    graph. A reference to a node keeps its tensors alive: let go of the list at once.
    """
    found: list[tuple[int, Node]] = []
    for node in find_nodes(tensors):
        number = node._sequence_nr()  # noqa: SLF001 - torch has no public name for it
        if number != _LEAF:
            found.append((number, node))
    found.sort(key=lambda pair: pair[0])
    return [node for _, node in found]


def saved_by(node: Node, names: dict[type, tuple[str, ...]]) -> SavedByNode:
    """Return what a node keeps. `names` remembers the attributes of each type of node."""
    kept = SavedByNode(node._sequence_nr())  # noqa: SLF001 - as above
    kind = type(node)
    kept.holder = _HOLDERS.get(kind.__name__, "")
    attributes = names.get(kind)
    if attributes is None:
        attributes = names[kind] = tuple(name for name in dir(node) if name.startswith(_PREFIX))
    for name in attributes:
        value = getattr(node, name)
        for saved in value if isinstance(value, _SEVERAL) else (value,):
            _add(kept, saved)
    if hasattr(kind, "_forward_cls"):  # a Function written in Python: what it put on its ctx itself
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
    """Add what a checkpoint keeps in place of all that its forward saved; whether it is one."""
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
    """Yield the tensors, of whatever dtype, in tuples, lists and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif depth < _DEPTH_LIMIT and isinstance(value, tuple | list | Mapping):
        for each in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(each, depth + 1)


def storages_of(tensor: torch.Tensor) -> Sequence[Storage]:
    """Return the storages under a tensor. One without memory of its own (meta, fake, vmapped) has none.

    A subclass that wraps others, as a DTensor does, has theirs; a sparse tensor has those of its parts.
    Thousands are read in a measured step: rare cases are recognised with as few checks as possible, and
    no generator is used.
    """
    is_plain = type(tensor) in _PLAIN
    if not is_plain and hasattr(tensor, "__tensor_flatten__"):
        parts = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
        # a DTensor names its mesh, too
        return [s for part in parts if isinstance(part, torch.Tensor) for s in storages_of(part)]
    if tensor.layout is not torch.strided:
        return [s for part in _parts_of(tensor) for s in storages_of(part)]
    try:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()  # noqa: SLF001 - the only identity of a storage
        # a storage says its device slowly; a fake tensor says another one than its storage
        kind = "cpu" if is_plain and tensor.is_cpu else storage.device.type
    except (NotImplementedError, RuntimeError, ValueError):
        return ()  # it says itself that it has none
    return (Storage(key, size, kind == "cpu"),) if size and kind != "meta" else ()


def _parts_of(tensor: torch.Tensor) -> list[torch.Tensor]:
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]  # noqa: SLF001 - the public ones need it coalesced
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return []
