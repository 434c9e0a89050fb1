"""`Readout`: the rows of one step by column, complete once all device copies have arrived."""

from array import array
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import COLUMN_NAMES, COLUMNS, Block, Flags, Merge
from gradscope.observe.cuda.device_buffer import DeviceReadout
from gradscope.observe.cuda.triton_buffer import TritonReadout

__all__ = ["EMPTY_ROW", "Readout", "columns_of", "frozen"]

_EMPTY = {Merge.ADD: 0.0, Merge.MIN: float("inf"), Merge.MAX: -float("inf")}
EMPTY_ROW = np.array([_EMPTY[column.merge] for column in COLUMNS], np.float64)
_WIDTH = len(COLUMNS)
_COUNTS = sum(column.is_count for column in COLUMNS)  # these columns are first
_CALLS = COLUMN_NAMES.index("calls")
_MISSING = int(Flags.NOT_MEASURED)


@dataclass(slots=True)
class Readout:
    """The rows of one step. `block()` does not wait if `is_ready()` is true."""

    _block: Block
    _devices: list[DeviceReadout | TritonReadout] = field(default_factory=list)
    _undigested: tuple[int, ...] = ()
    """Rows that a tensor without a digest was merged into."""

    def is_ready(self) -> bool:
        """Return whether all device copies have arrived."""
        return all(readout.is_ready() for readout in self._devices)

    def block(self) -> Block:
        """Return the rows as a Block; waits for device copies."""
        for readout in self._devices:
            readout.merge_into(self._block)
        self._devices.clear()
        if self._block.digest is not None and self._undigested:
            self._block.digest[list(self._undigested)] = 0
        return _without_empty_rows(self._block)


def columns_of(
    cells: bytearray, flags: bytearray, expected: bytearray, *, is_taken: bool
) -> tuple[dict[str, NDArray[Any]], NDArray[np.uint8]]:  # Any: counts are uint64, numbers float64
    """Return the columns of the rows by name, and the flags of each row.

    A row whose expected gradient was not computed is flagged NOT_MEASURED. If `is_taken`, the rows are emptied.
    """
    table = np.frombuffer(cells, np.float64).reshape(-1, _WIDTH)
    counts = table.T[:_COUNTS].astype(np.uint64, order="C")
    numbers = table.T[_COUNTS:].copy(order="C")
    all_flags = np.array(flags, np.uint8)
    all_flags[(np.array(expected, np.uint8) > 0) & (table[:, _CALLS] == 0)] |= np.uint8(_MISSING)
    if is_taken:
        table[:] = EMPTY_ROW
        flags[:] = expected[:] = bytes(len(flags))
    return dict(zip(COLUMN_NAMES, (*counts, *numbers), strict=True)), all_flags


def frozen(numbers: "array[int]") -> NDArray[np.uint32]:
    """Return a read-only array that many blocks can share."""
    frozen = np.array(numbers, np.uint32)
    frozen.flags.writeable = False
    return frozen


def _without_empty_rows(block: Block) -> Block:
    is_there = (block.values["calls"] > 0) | (block.flags != 0)  # type: ignore[operator]  # counts are numbers
    return block if is_there.all() else block.taken(is_there)
