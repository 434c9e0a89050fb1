"""The board: one row for each layer and kind, into which an observed step's tensors are reduced.

Rows are allotted when first met and keep their number; what was added to them is handed out as a
`Block` at the end of the step, and they are empty again. CPU tensors are reduced here: by the native
pass, which writes the rows itself, and where it cannot, by `reduction`. A tensor of another device is
reduced into a board on that device (`device_board`), and read back once a step.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from gradscope.columns import COLUMNS, Block, Flags, Merge
from gradscope.observe.device_board import DeviceBoard, DeviceHarvest
from gradscope.observe.native import native_module
from gradscope.observe.reduction import (
    Record,
    Unmeasurable,
    reduce_change_on_host,
    reduce_on_device,
    reduce_on_host,
)

__all__ = ["Board", "Harvest", "Targets", "room_for"]

_EMPTY = {Merge.ADD: 0.0, Merge.MIN: float("inf"), Merge.MAX: -float("inf")}
_MERGE: dict[Merge, Callable[[float, float], float]] = {
    Merge.ADD: float.__add__,
    Merge.MIN: min,
    Merge.MAX: max,
}
_EMPTY_ROW = np.array([_EMPTY[column.merge] for column in COLUMNS], np.float64).tobytes()
_MERGES = tuple(_MERGE[column.merge] for column in COLUMNS)
_WIDTH = len(COLUMNS)
_HEADING_BYTES = 16 + 7
"""What a copy takes beside the tensor's own bytes, at most."""
_CALLS = [column.name for column in COLUMNS].index("calls")
_NO_FLOAT64 = frozenset({"mps"})


@dataclass(slots=True)
class Harvest:
    """What a step left on the board. `block()` is complete once `is_ready()`."""

    _block: Block
    _devices: list[DeviceHarvest] = field(default_factory=list)

    def is_ready(self) -> bool:
        """Whether nothing is still on its way from a device."""
        return all(harvest.is_ready() for harvest in self._devices)

    def block(self) -> Block:
        """Return the rows; waits for a device that is not ready."""
        for harvest in self._devices:
            harvest.merge_into(self._block)
        self._devices.clear()
        return _without_empty_rows(self._block)


Targets = tuple[int, ...]
"""The rows into which one tensor goes."""


class Board:
    """Rows of columns. One thread writes a row at a time; a step's rows live until `harvest`.

    A row lies in memory as its columns in the order of COLUMNS, all float64, in which whole counts are
    exact up to 2^53.
    """

    def __init__(self, *, is_full: bool = False) -> None:
        self._is_full = is_full
        self._native = native_module()
        self._rows: dict[tuple[int, str], int] = {}
        self._layers: list[int] = []
        self._kinds: dict[str, int] = {}
        self._kind_of_row: list[int] = []
        self._devices: dict[torch.device, DeviceBoard] = {}
        self._cells = bytearray()
        self._flags = bytearray()
        self._expected = bytearray()

    def __len__(self) -> int:
        return len(self._layers)

    def row(self, layer: int, kind: str) -> int:
        """Return the row of a layer's kind; it is allotted when first asked for."""
        row = self._rows.get((layer, kind))
        if row is None:
            row = self._rows[layer, kind] = len(self._layers)
            self._layers.append(layer)
            self._kind_of_row.append(self._kinds.setdefault(kind, len(self._kinds)))
            self._flags.append(0)
            self._expected.append(0)
            self._cells += _EMPTY_ROW
        return row

    def add(self, row: int, tensor: torch.Tensor, *also: int) -> None:
        """Reduce a tensor into a row, and into others beside it.

        A tensor without readable numbers marks them *not measured*.
        """
        if self._native is None or not self._native.add(self._cells, self._is_full, tensor, row, *also):
            self._add_eagerly(tensor, (row, *also))

    def add_each(
        self,
        tensors: list[torch.Tensor],
        targets: list[Targets],
        kept: NDArray[np.uint8] | None = None,
    ) -> Sequence[int]:
        """Reduce each tensor into its rows; and copy it into `kept`, where that is given.

        Returns the places of those that were not copied. `room_for` says how large `kept` is to be.
        """
        if self._native is None:
            left: Sequence[int] = range(len(tensors))
        else:
            left = self._native.add_each(self._cells, self._is_full, tensors, targets, kept)
        for place in left:
            self._add_eagerly(tensors[place], targets[place])
        return left

    def add_changes(
        self, tensors: list[torch.Tensor], targets: list[Targets], kept: NDArray[np.uint8]
    ) -> Sequence[int]:
        """Reduce the change of each tensor since `add_each` copied the same list into `kept`.

        Returns the places of those that were not copied then, or have another layout now.
        """
        if self._native is None:
            return range(len(tensors))
        left: list[int] = self._native.add_changes(self._cells, self._is_full, tensors, targets, kept)
        return left

    def add_change(self, rows: Targets, tensor: torch.Tensor, before: torch.Tensor) -> None:
        """Reduce a tensor's change since a copy was made of it."""
        if tensor.device.type == "cpu" and tensor.layout is torch.strided:
            try:
                self._add_record(rows, reduce_change_on_host(tensor, before, is_full=self._is_full))
            except Unmeasurable:
                self.mark_unmeasured(rows)
        elif tensor.dtype in (torch.float16, torch.bfloat16):
            self._add_eagerly(tensor.float() - before.float(), rows)
        else:
            self._add_eagerly(tensor - before, rows)

    def mark_unmeasured(self, rows: Targets) -> None:
        """Say of rows that something belongs into them that could not be read."""
        for row in rows:
            self._flags[row] |= Flags.NOT_MEASURED

    def expect(self, row: int) -> None:
        """Note that a gradient hook was placed: a row where none fires is *not measured*."""
        self._expected[row] = 1

    def peek(self) -> Block:
        """Return what the step has left so far, and leave it there; waits for the device."""
        harvest = Harvest(self._as_block(), [board.copy() for board in self._devices.values()])
        return harvest.block()

    def harvest(self) -> Harvest:
        """Hand out what the step left, and begin anew."""
        block = self._as_block()
        harvest = Harvest(block, [board.harvest() for board in self._devices.values()])
        rows = len(self._layers)
        self._cells[:] = _EMPTY_ROW * rows
        self._flags[:] = self._expected[:] = bytes(rows)
        return harvest

    def _as_block(self) -> Block:
        table = np.frombuffer(self._cells, np.float64).reshape(-1, _WIDTH).T.copy()
        values: dict[str, NDArray[np.generic]] = {
            column.name: line.astype(np.uint64) if column.is_count else line
            for column, line in zip(COLUMNS, table, strict=True)
            if column.is_core or self._is_full
        }
        flags = np.array(self._flags, np.uint8)
        is_missing = (np.array(self._expected, np.uint8) > 0) & (table[_CALLS] == 0)
        flags[is_missing] |= np.uint8(Flags.NOT_MEASURED)
        return Block(
            tuple(self._kinds),
            np.array(self._layers, np.uint32),
            np.array(self._kind_of_row, np.uint32),
            flags,
            values,
        )

    def _add_eagerly(self, tensor: torch.Tensor, rows: Targets) -> None:
        try:
            device = tensor.device
            if device.type == "cpu":
                record = reduce_on_host(tensor, is_full=self._is_full)
            elif device.type in _NO_FLOAT64:
                record = reduce_on_host(tensor.cpu(), is_full=self._is_full)
            else:
                reduced = reduce_on_device(tensor, is_full=self._is_full)
                self._device_board(device).add(rows, reduced)
                record = Record()
        except Unmeasurable:
            self.mark_unmeasured(rows)
            return
        self._add_record(rows, record)

    def _add_record(self, rows: Targets, record: Record) -> None:
        columns = [float(value) for value in astuple(record)]
        with memoryview(self._cells).cast("d") as cells:
            for row in rows:
                for i, (merge, value) in enumerate(zip(_MERGES, columns, strict=True), row * _WIDTH):
                    cells[i] = merge(cells[i], value)

    def _device_board(self, device: torch.device) -> DeviceBoard:
        board = self._devices.get(device)
        if board is None:
            board = self._devices[device] = DeviceBoard(device)
        return board


def room_for(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes that `add_each` needs to keep copies of tensors: of those that it can read."""
    return sum(
        _HEADING_BYTES + tensor.nbytes
        for tensor in tensors
        if type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"
    )


def _without_empty_rows(block: Block) -> Block:
    is_there = (block.values["calls"] > 0) | (block.flags != 0)  # type: ignore[operator]  # counts are numbers
    if is_there.all():
        return block
    return Block(
        block.kinds,
        block.layer[is_there],
        block.kind[is_there],
        block.flags[is_there],
        {name: array[is_there] for name, array in block.values.items()},
    )
