"""`TritonRowBuffer`: the rows (lines) on a CUDA device that the Triton kernels write, read once per step.

Lines have fixed addresses, because a captured CUDA graph keeps writing to them. Nothing waits for the device. After
the first steps nothing is allocated: lines are copied into pinned memory that is reused after it was read. Tensors
that the kernels cannot read in place are reduced into the same lines by PyTorch's operations.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from gradscope.columns import HISTOGRAM_BINS, Block
from gradscope.observe.cuda.device_buffer import DeviceRowBuffer, merge_columns
from gradscope.observe.cuda.grouped_launch import TableOfItems, parts_of
from gradscope.observe.cuda.launcher import TritonPass, triton_pass
from gradscope.observe.cuda.row_layout import BINS_AT, LINE_COLUMNS, LINES
from gradscope.observe.cuda.tensor_memory import memory_of
from gradscope.observe.reduction import DEVICE_COLUMNS, DeviceRecord, Unmeasurable, reduce_on_device

__all__ = ["TritonReadout", "TritonRowBuffer", "open_row_buffer"]

_ADDED = len(DEVICE_COLUMNS) - 2
_LEAST, _GREATEST, _CALLS = (LINE_COLUMNS.index(name) for name in ("min", "max", "calls"))
_FIRST_LINES = 1024
_TABLES = 256
"""The maximum number of tables of items to keep."""

_written_by_graphs: dict[int, torch.Tensor] = {}
"""Lines that captured graphs write to, by address. Kept forever: the end of a graph is not known."""


def open_row_buffer(
    device: torch.device, *, is_full: bool, has_digest: bool = False
) -> "TritonRowBuffer | DeviceRowBuffer":
    """Return a row buffer for a device, for the pass that is used there. The kernels compute no digests."""
    found = None if has_digest else triton_pass(device)
    if found is None:
        return DeviceRowBuffer(device, is_full=is_full, has_digest=has_digest)
    return TritonRowBuffer(device, found, is_full=is_full)


@dataclass(frozen=True, slots=True)
class _Landing:
    """Pinned memory for a copy of the lines, one tensor per segment, and an event that marks the end of the copy."""

    segments: list[torch.Tensor]
    event: torch.Event | None


@dataclass(frozen=True, slots=True)
class TritonReadout:
    """The lines of a device, being copied to the host."""

    landing: _Landing
    rows: int
    free: list[_Landing]

    def is_ready(self) -> bool:
        """Return whether the copy has arrived."""
        event = self.landing.event
        return event is None or bool(event.query())

    def merge_into(self, block: Block) -> None:
        """Merge the lines into the rows of a block, once. Afterwards their pinned memory is reused.

        The host counts its own calls; replays of a CUDA graph are counted on the device.
        """
        if self.landing.event is not None:
            self.landing.event.synchronize()
        begin = 0
        for segment in self.landing.segments:
            rows = min(len(segment), self.rows - begin, len(block) - begin)
            if rows <= 0:
                break
            bins = segment[:rows, BINS_AT:].view(torch.int64) if block.histogram is not None else None
            merge_columns(block, begin, segment[:rows], bins)
            calls = block.values["calls"][begin : begin + rows]
            device_calls = segment[:rows, _CALLS].numpy().astype(calls.dtype)
            calls[device_calls > calls] = device_calls[device_calls > calls]
            begin += rows
        self.free.append(self.landing)


class TritonRowBuffer:
    """Lines on one device, with the same indices as in the RowBuffer."""

    def __init__(self, device: torch.device, measuring: TritonPass, *, is_full: bool) -> None:
        self._device = device
        self._pass = measuring
        self._is_full = is_full
        self._empty: torch.Tensor | None = None
        self._segments: list[torch.Tensor] = []
        self._addresses: list[int] = []
        self._rows = 0
        self._free: list[_Landing] = []
        self._tables: dict[tuple[object, ...], TableOfItems] = {}

    def reduce(self, tensor: torch.Tensor, rows: tuple[int, ...]) -> bool:
        """Queue the reduction of a tensor into rows; return whether it will run now.

        During the capture of a CUDA graph it does not run; each replay runs and counts it.
        Raises Unmeasurable if there is no data to read, or if no line is allocated during a capture.
        """
        is_capturing = self._pass.is_capturing()
        self._reserve(max(rows) + 1, is_capturing=is_capturing)
        if is_capturing:
            _written_by_graphs.update({segment.data_ptr(): segment for segment in self._segments})
        memory = memory_of(tensor)
        if memory is not None and memory.size == 0:
            return not is_capturing
        lines = [self._addresses[row] for row in rows]
        done = 0 if memory is None else self._pass.reduce(memory, lines, is_full=self._is_full)
        if done < len(rows):
            self.add(rows[done:], reduce_on_device(tensor, is_full=self._is_full))
        return not is_capturing

    def reduce_each(
        self,
        tensors: Sequence[torch.Tensor],
        targets: Sequence[tuple[int, ...]],
        before: Sequence[torch.Tensor] | None = None,
    ) -> set[int]:
        """Queue the reduction of many tensors, or of their changes since `before`, with one launch for each dtype.

        Returns the indices of the queued tensors; the others must be reduced one by one.
        """
        if self._pass.is_capturing() or not targets:
            return set()
        self._reserve(max(max(rows) for rows in targets) + 1, is_capturing=False)
        queued: set[int] = set()
        for key, parts in parts_of(tensors, before, [len(rows) <= LINES for rows in targets]).items():
            table = self._table((key, targets[parts[0].place][0], len(parts)))
            lines = [tuple(self._addresses[row] for row in targets[part.place]) for part in parts]
            table.fill_launch_arguments(parts, lines, key.dtype)
            if self._pass.reduce_many(
                table.items, key.dtype,
                is_aligned=key.is_aligned, is_full=self._is_full, is_change=before is not None,
            ):  # fmt: skip
                queued.update(part.place for part in parts)
        return queued

    def add(self, rows: tuple[int, ...], record: DeviceRecord) -> None:
        """Queue the merging of a record into some rows."""
        for row in rows:
            line = self._line(row)
            line[:_ADDED].add_(record.columns[:_ADDED])
            line[_LEAST].copy_(torch.minimum(line[_LEAST], record.columns[_LEAST]))
            line[_GREATEST].copy_(torch.maximum(line[_GREATEST], record.columns[_GREATEST]))
            line[_CALLS].add_(1.0)
            if record.bins is not None:
                line[BINS_AT:].view(torch.int64).add_(record.bins)

    def read_out(self) -> TritonReadout:
        """Queue the copy to the host, then empty the lines."""
        readout = self.copy()
        if self._empty is not None:
            for lines in self._used():
                lines.copy_(self._empty)
        return readout

    def copy(self) -> TritonReadout:
        """Queue the copy to the host without emptying the lines."""
        is_cuda = self._device.type == "cuda"
        landing = (
            self._free.pop()
            if self._free
            else _Landing([], torch.Event(self._device) if is_cuda else None)
        )
        for segment in self._segments[len(landing.segments) :]:
            landing.segments.append(torch.empty(segment.shape, dtype=segment.dtype, pin_memory=is_cuda))
        for here, lines in zip(landing.segments, self._used(), strict=False):
            here[: len(lines)].copy_(lines, non_blocking=is_cuda)
        if landing.event is not None:
            landing.event.record(torch.cuda.current_stream(self._device))
        return TritonReadout(landing, self._rows, self._free)

    def _used(self) -> Iterator[torch.Tensor]:
        """Yield the lines of each segment that has been written to."""
        begin = 0
        for segment in self._segments:
            if begin < self._rows:
                yield segment[: self._rows - begin]
            begin += len(segment)

    def _table(self, key: tuple[object, ...]) -> TableOfItems:
        stream = (
            torch.cuda.current_stream(self._device).cuda_stream if self._device.type == "cuda" else 0
        )
        table = self._tables.get((stream, *key))
        if table is None:
            if len(self._tables) == _TABLES:
                self._tables.clear()
            table = self._tables[stream, *key] = TableOfItems(self._device)
        return table

    def _reserve(self, rows: int, *, is_capturing: bool) -> None:
        """Allocate lines for the rows. Segments double in size, so that there are few."""
        while rows > len(self._addresses):
            if is_capturing:
                raise Unmeasurable(
                    "a tensor that was first measured during the capture of a CUDA graph"
                )
            if self._empty is None:
                self._empty = self._empty_line()
            lines = max(_FIRST_LINES, len(self._addresses))
            segment = self._empty.repeat(lines, 1)
            self._segments.append(segment)
            begin, step = segment.data_ptr(), segment.stride(0) * segment.itemsize
            self._addresses.extend(range(begin, begin + lines * step, step))
        self._rows = max(self._rows, rows)

    def _empty_line(self) -> torch.Tensor:
        width = BINS_AT + (HISTOGRAM_BINS if self._is_full else 0)
        line = torch.zeros(width, dtype=torch.float64, device=self._device)
        line[_LEAST].fill_(float("inf"))
        line[_GREATEST].fill_(-float("inf"))
        return line

    def _line(self, row: int) -> torch.Tensor:
        for segment in self._segments:
            if row < len(segment):
                return segment[row]
            row -= len(segment)
        raise IndexError(f"row {row} is beyond the last row of this buffer")
