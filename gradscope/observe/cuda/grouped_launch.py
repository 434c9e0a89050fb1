"""Reduces many tensors in one launch: a table on the device holds the arguments of each program.

The table is refilled only if an address has changed, as the addresses of gradients do after
`zero_grad(set_to_none=True)`. It is copied through pinned memory, without waiting for the device.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gradscope.observe.cuda.row_layout import ITEM_WORDS, LINES
from gradscope.observe.cuda.tensor_memory import Memory, memory_of

__all__ = ["Part", "PartsKey", "TableOfItems", "parts_of"]

_ITEM_BYTES = 1 << 18
"""The maximum size of an item in bytes: large enough to amortise merging, small enough to use many programs."""


class Part(NamedTuple):
    """One tensor of a list: its index, its memory, and the address of its earlier values (or of itself)."""

    place: int
    memory: Memory
    before: int


class PartsKey(NamedTuple):
    """The properties that all tensors of one launch share."""

    dtype: torch.dtype
    is_aligned: bool


def parts_of(
    tensors: Sequence[torch.Tensor],
    before: Sequence[torch.Tensor] | None,
    may_be: Sequence[bool],
) -> dict[PartsKey, list[Part]]:
    """Group tensors by launch; tensors that cannot be read in place are omitted."""
    parts: dict[PartsKey, list[Part]] = {}
    for place, tensor in enumerate(tensors):
        memory = memory_of(tensor) if may_be[place] else None
        if memory is None or not memory.size:
            continue
        earlier = memory
        if before is not None:
            found = _same_layout(tensor, before[place], memory)
            if found is None:
                continue
            earlier = found
        key = PartsKey(memory.dtype, memory.is_aligned and earlier.is_aligned)
        parts.setdefault(key, []).append(Part(place, memory, earlier.address))
    return parts


def _same_layout(tensor: torch.Tensor, before: torch.Tensor, memory: Memory) -> Memory | None:
    """Return the memory of the earlier values, if they have the same layout."""
    if tensor.shape != before.shape or tensor.stride() != before.stride():
        return None
    earlier = memory_of(before)
    is_same = earlier is not None and (earlier.size, earlier.dtype) == (memory.size, memory.dtype)
    return earlier if is_same else None


class TableOfItems:
    """The items of one list of tensors on one device. Filled and read on one stream."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._filled_for: tuple[object, ...] = ()
        self._staged: torch.Tensor | None = None
        self._copied: torch.Event | None = None
        self.items = torch.empty((0, ITEM_WORDS), dtype=torch.int64, device=device)

    def fill_launch_arguments(
        self, parts: list[Part], lines: list[tuple[int, ...]], dtype: torch.dtype
    ) -> None:
        """Queue the filling of the table, unless it has this content already."""
        wanted = (parts, lines, dtype)
        if wanted == self._filled_for:
            return
        items = torch.from_numpy(_items(parts, lines, dtype.itemsize))
        if len(self.items) != len(items):
            self.items = torch.empty(items.shape, dtype=torch.int64, device=self._device)
        if self._device.type == "cuda":
            self._send(items)
        else:
            self.items.copy_(items)
        self._filled_for = wanted

    def _send(self, items: torch.Tensor) -> None:
        """Copy asynchronously through pinned memory that no earlier copy is still reading."""
        is_free = self._copied is not None and self._copied.query()
        if (
            self._staged is None
            or self._copied is None
            or not is_free
            or len(self._staged) != len(items)
        ):
            self._staged = torch.empty(items.shape, dtype=torch.int64, pin_memory=True)
            self._copied = torch.Event(self._device)
        self._staged.copy_(items)
        self.items.copy_(self._staged, non_blocking=True)
        self._copied.record(torch.cuda.current_stream(self._device))


def _items(parts: list[Part], lines: list[tuple[int, ...]], itemsize: int) -> NDArray[np.int64]:
    """Cut tensors into items of at most _ITEM_BYTES, shape (items, ITEM_WORDS)."""
    step = _ITEM_BYTES // itemsize
    numbers = np.array(
        [(p.memory.address, p.before, p.memory.size, p.memory.repeats) for p in parts], np.int64
    )
    of_lines = np.zeros((len(parts), LINES), np.int64)
    for i, each in enumerate(lines):
        of_lines[i, : len(each)] = each
    pieces = -(-numbers[:, 2] // step)
    part = np.repeat(np.arange(len(parts)), pieces)
    piece = np.arange(len(part)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    items = np.empty((len(part), ITEM_WORDS), np.int64)
    items[:, 0] = numbers[part, 0] + piece * step * itemsize
    items[:, 1] = numbers[part, 1] + piece * step * itemsize
    items[:, 2] = np.minimum(step, numbers[part, 2] - piece * step)
    items[:, 3] = numbers[part, 3]
    items[:, 4] = piece == 0
    items[:, 5:] = of_lines[part]
    return items
