"""The board: one row for each layer and kind, into which an observed step's tensors are reduced.

Rows are allotted when first met and keep their number; what was added to them is handed out as a
`Block` at the end of the step, and they are empty again. CPU tensors are reduced here. A tensor of
another device is reduced into a board on that device (`device_board`), and read back once a step.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from gradscope.columns import COLUMNS, Block, Flags, Merge
from gradscope.observe.device_board import DeviceBoard, DeviceHarvest
from gradscope.observe.reduction import Record, Unmeasurable, reduce_on_device, reduce_on_host

__all__ = ["Board", "Harvest"]

_EMPTY = {Merge.ADD: 0, Merge.MIN: float("inf"), Merge.MAX: -float("inf")}
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


class Board:
    """Rows of columns. One thread writes a row at a time; a step's rows live until `harvest`."""

    def __init__(self, *, is_full: bool = False) -> None:
        self._is_full = is_full
        self._names = [c.name for c in COLUMNS if c.is_core or is_full]
        self._rows: dict[tuple[int, str], int] = {}
        self._layers: list[int] = []
        self._kinds: dict[str, int] = {}
        self._kind_of_row: list[int] = []
        self._devices: dict[torch.device, DeviceBoard] = {}
        self._clear()

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
            for column in COLUMNS:
                self._columns[column.name].append(_EMPTY[column.merge])
        return row

    def add(self, row: int, tensor: torch.Tensor, *also: int) -> None:
        """Reduce a tensor into a row, and into others beside it.

        A tensor without readable numbers marks them *not measured*.
        """
        try:
            device = tensor.device
            if device.type == "cpu":
                record = reduce_on_host(tensor, is_full=self._is_full)
            elif device.type in _NO_FLOAT64:
                record = reduce_on_host(tensor.cpu(), is_full=self._is_full)
            else:
                reduced = reduce_on_device(tensor, is_full=self._is_full)
                self._device_board(device).add((row, *also), reduced)
                record = Record()
        except Unmeasurable:
            for each in (row, *also):
                self._flags[each] |= Flags.NOT_MEASURED
            return
        for each in (row, *also):
            self._add_record(each, record)

    def expect(self, row: int) -> None:
        """Note that a gradient hook was placed: a row where none fires is *not measured*."""
        self._expected[row] += 1

    def harvest(self) -> Harvest:
        """Hand out what the step left, and begin anew."""
        flags = np.array(self._flags, np.uint8)
        calls = np.array(self._columns["calls"], np.uint64)
        flags[(np.array(self._expected) > 0) & (calls == 0)] |= np.uint8(Flags.NOT_MEASURED)
        values: dict[str, NDArray[np.generic]] = {
            c.name: np.array(self._columns[c.name], np.uint64 if c.is_count else np.float64)
            for c in COLUMNS
            if c.name in self._names
        }
        block = Block(
            tuple(self._kinds),
            np.array(self._layers, np.uint32),
            np.array(self._kind_of_row, np.uint32),
            flags,
            values,
        )
        harvest = Harvest(block, [board.harvest() for board in self._devices.values()])
        self._clear()
        return harvest

    def _add_record(self, row: int, record: Record) -> None:
        c = self._columns
        c["calls"][row] += record.calls
        c["count"][row] += record.count
        c["sum"][row] += record.sum
        c["sumsq"][row] += record.sumsq
        c["min"][row] = min(c["min"][row], record.min)
        c["max"][row] = max(c["max"][row], record.max)
        if record.nan or record.posinf or record.neginf:
            c["nan"][row] += record.nan
            c["posinf"][row] += record.posinf
            c["neginf"][row] += record.neginf
        if self._is_full:
            c["zero"][row] += record.zero
            c["subnormal"][row] += record.subnormal

    def _device_board(self, device: torch.device) -> DeviceBoard:
        board = self._devices.get(device)
        if board is None:
            board = self._devices[device] = DeviceBoard(device)
        return board

    def _clear(self) -> None:
        rows = len(self._layers)
        self._columns: dict[str, list[float]] = {c.name: [_EMPTY[c.merge]] * rows for c in COLUMNS}
        self._flags = [0] * rows
        self._expected = [0] * rows


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
