"""`DeviceRowBuffer`: the rows on one device. Reductions are queued, and read back once per step, asynchronously.

Nothing waits for the device: the copy to pinned memory is queued after the reductions, and an event shows when it
has arrived. Reductions run on the current stream of the tensor's own work; autograd joins its streams before an
optimizer steps, and the copy is queued after that.
"""

from dataclasses import dataclass

import numpy as np
import torch

from gradscope.columns import HISTOGRAM_BINS, Block
from gradscope.observe.reduction import DEVICE_COLUMNS, DeviceRecord, reduce_on_device

__all__ = ["DeviceReadout", "DeviceRowBuffer", "merge_columns"]

_ADDED = len(DEVICE_COLUMNS) - 2
_LEAST, _GREATEST = DEVICE_COLUMNS.index("min"), DEVICE_COLUMNS.index("max")
_FIRST_CAPACITY = 256


@dataclass(frozen=True, slots=True)
class DeviceReadout:
    """The rows of a device, being copied to the host: float64, shape (rows, len(DEVICE_COLUMNS)).

    `bins`, at full detail, are int64, shape (rows, 128). `digests`, if measured, are int64, shape (rows,).
    """

    host: torch.Tensor
    bins: torch.Tensor | None
    event: torch.Event | None
    digests: torch.Tensor | None = None

    def is_ready(self) -> bool:
        """Return whether the copy has arrived."""
        return self.event is None or bool(self.event.query())

    def merge_into(self, block: Block) -> None:
        """Merge the rows into the rows of a block with at least as many rows."""
        if self.event is not None:
            self.event.synchronize()
        merge_columns(block, 0, self.host, self.bins)
        if block.digest is not None and self.digests is not None:
            digests = self.digests.numpy().view(np.uint64)[: len(block)]
            block.digest[: len(digests)] += digests


def merge_columns(block: Block, begin: int, columns: torch.Tensor, bins: torch.Tensor | None) -> None:
    """Merge columns (the first are DEVICE_COLUMNS) and bins into a block's rows from `begin` on."""
    numbers = columns.numpy()
    rows = slice(begin, begin + min(len(block) - begin, len(numbers)))
    numbers = numbers[: rows.stop - begin]
    for i, name in enumerate(DEVICE_COLUMNS):
        target = block.values.get(name)
        if target is None:
            continue
        merge = np.minimum if i == _LEAST else np.maximum if i == _GREATEST else np.add
        target[rows] = merge(target[rows], numbers[:, i].astype(target.dtype))
    if block.histogram is not None and bins is not None:
        block.histogram[rows] += bins.numpy()[: len(numbers)].view(np.uint64)


class DeviceRowBuffer:
    """Rows on one device, with the same indices as in the RowBuffer."""

    def __init__(
        self, device: torch.device, *, is_full: bool = False, has_digest: bool = False
    ) -> None:
        self._device = device
        self._digests = self._no_digests(_FIRST_CAPACITY) if has_digest else None
        self._table = self._empty(_FIRST_CAPACITY)
        self._bins = self._no_bins(_FIRST_CAPACITY) if is_full else None

    def reduce(self, tensor: torch.Tensor, rows: tuple[int, ...]) -> bool:
        """Queue the reduction of a tensor into rows; return True."""
        self.add(rows, reduce_on_device(tensor, is_full=self._bins is not None))
        return True

    def add(self, rows: tuple[int, ...], record: DeviceRecord) -> None:
        """Queue the merging of a record into some rows."""
        self._reserve(max(rows) + 1)
        columns = record.columns
        for row in rows:
            line = self._table[row]
            line[:_ADDED].add_(columns[:_ADDED])
            line[_LEAST].copy_(torch.minimum(line[_LEAST], columns[_LEAST]))
            line[_GREATEST].copy_(torch.maximum(line[_GREATEST], columns[_GREATEST]))
            if self._bins is not None and record.bins is not None:
                self._bins[row].add_(record.bins)

    def add_digest(self, rows: tuple[int, ...], digest: torch.Tensor) -> None:
        """Queue the addition of a digest, an int64 tensor with one element, to some rows."""
        self._reserve(max(rows) + 1)
        if self._digests is not None:
            for row in rows:
                self._digests[row].add_(digest)

    def read_out(self) -> DeviceReadout:
        """Queue the copy to the host, then empty the rows."""
        readout = self.copy()
        self._fill_empty(self._table)
        if self._bins is not None:
            self._bins.zero_()
        if self._digests is not None:
            self._digests.zero_()
        return readout

    def copy(self) -> DeviceReadout:
        """Queue the copy to the host without emptying the rows."""
        host = self._on_host(self._table)
        bins = None if self._bins is None else self._on_host(self._bins)
        digests = None if self._digests is None else self._on_host(self._digests)
        event = None
        if self._device.type == "cuda":
            event = torch.Event(self._device)
            event.record(torch.cuda.current_stream(self._device))
        return DeviceReadout(host, bins, event, digests)

    def _on_host(self, table: torch.Tensor) -> torch.Tensor:
        is_cuda = self._device.type == "cuda"
        host = torch.empty(table.shape, dtype=table.dtype, pin_memory=is_cuda)
        return host.copy_(table, non_blocking=is_cuda)

    def _reserve(self, rows: int) -> None:
        if rows > len(self._table):
            larger = self._empty(max(rows, 2 * len(self._table)))
            larger[: len(self._table)].copy_(self._table)
            self._table = larger
        if self._bins is not None and len(self._table) > len(self._bins):
            more = self._no_bins(len(self._table))
            more[: len(self._bins)].copy_(self._bins)
            self._bins = more
        if self._digests is not None and len(self._table) > len(self._digests):
            wider = self._no_digests(len(self._table))
            wider[: len(self._digests)].copy_(self._digests)
            self._digests = wider

    def _no_bins(self, rows: int) -> torch.Tensor:
        return torch.zeros((rows, HISTOGRAM_BINS), dtype=torch.int64, device=self._device)

    def _no_digests(self, rows: int) -> torch.Tensor:
        return torch.zeros(rows, dtype=torch.int64, device=self._device)

    def _empty(self, rows: int) -> torch.Tensor:
        shape = (rows, len(DEVICE_COLUMNS))
        return self._fill_empty(torch.empty(shape, dtype=torch.float64, device=self._device))

    @staticmethod
    def _fill_empty(table: torch.Tensor) -> torch.Tensor:
        table[:, :_ADDED].zero_()
        table[:, _LEAST].fill_(float("inf"))
        table[:, _GREATEST].fill_(-float("inf"))
        return table
