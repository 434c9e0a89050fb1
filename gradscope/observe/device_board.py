"""The board's part on a device: reductions are queued there, and read back once a step, asynchronously.

Nothing here waits for the device: the copy to pinned memory is queued behind the reductions, and an
event tells when it has come. Reductions follow the stream on which the tensor's own work runs; autograd
joins its streams before an optimizer steps, and the copy is queued after that.
"""

from dataclasses import dataclass

import numpy as np
import torch

from gradscope.columns import Block
from gradscope.observe.reduction import DEVICE_COLUMNS

__all__ = ["DeviceBoard", "DeviceHarvest"]

_ADDED = len(DEVICE_COLUMNS) - 2
_LEAST, _GREATEST = DEVICE_COLUMNS.index("min"), DEVICE_COLUMNS.index("max")
_FIRST_CAPACITY = 256


@dataclass(frozen=True, slots=True)
class DeviceHarvest:
    """A device's rows on their way to the host: float64, shape (rows, 10)."""

    host: torch.Tensor
    event: torch.Event | None

    def is_ready(self) -> bool:
        """Whether the copy has come."""
        return self.event is None or bool(self.event.query())

    def merge_into(self, block: Block) -> None:
        """Merge the rows into those of a block, which has as many or more."""
        if self.event is not None:
            self.event.synchronize()
        numbers = self.host.numpy()
        rows = min(len(block), len(numbers))
        for i, name in enumerate(DEVICE_COLUMNS):
            target = block.values.get(name)
            if target is None:
                continue
            merge = np.minimum if i == _LEAST else np.maximum if i == _GREATEST else np.add
            target[:rows] = merge(target[:rows], numbers[:rows, i].astype(target.dtype))


class DeviceBoard:
    """Rows on one device; the row numbers are the board's own."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._table = self._empty(_FIRST_CAPACITY)

    def add(self, rows: tuple[int, ...], record: torch.Tensor) -> None:
        """Queue the merging of a record, as `reduce_on_device` gives it, into some rows."""
        self._reserve(max(rows) + 1)
        for row in rows:
            line = self._table[row]
            line[:_ADDED].add_(record[:_ADDED])
            line[_LEAST].copy_(torch.minimum(line[_LEAST], record[_LEAST]))
            line[_GREATEST].copy_(torch.maximum(line[_GREATEST], record[_GREATEST]))

    def harvest(self) -> DeviceHarvest:
        """Queue the copy to the host and empty the rows behind it."""
        harvest = self.copy()
        self._fill_empty(self._table)
        return harvest

    def copy(self) -> DeviceHarvest:
        """Queue the copy to the host, and leave the rows as they are."""
        is_cuda = self._device.type == "cuda"
        host = torch.empty(self._table.shape, dtype=torch.float64, pin_memory=is_cuda)
        host.copy_(self._table, non_blocking=is_cuda)
        event = None
        if is_cuda:
            event = torch.Event(self._device)
            event.record(torch.cuda.current_stream(self._device))
        return DeviceHarvest(host, event)

    def _reserve(self, rows: int) -> None:
        if rows > len(self._table):
            larger = self._empty(max(rows, 2 * len(self._table)))
            larger[: len(self._table)].copy_(self._table)
            self._table = larger

    def _empty(self, rows: int) -> torch.Tensor:
        shape = (rows, len(DEVICE_COLUMNS))
        return self._fill_empty(torch.empty(shape, dtype=torch.float64, device=self._device))

    @staticmethod
    def _fill_empty(table: torch.Tensor) -> torch.Tensor:
        table[:, :_ADDED].zero_()
        table[:, _LEAST].fill_(float("inf"))
        table[:, _GREATEST].fill_(-float("inf"))
        return table
