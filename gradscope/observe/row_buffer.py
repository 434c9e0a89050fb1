"""`RowBuffer`: one row for each layer and kind, into which the tensors of an observed step are reduced.

Rows are allocated on first use and keep their index. At the end of the step they are read out as a `Block` and
emptied. CPU tensors are reduced by the native pass, which writes the rows itself, or else by `reduction`.
Tensors on another device are reduced into a buffer there (`device_buffer`), which is read back once per step.
"""

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from gradscope.columns import (
    COLUMN_NAMES,
    COLUMNS,
    HISTOGRAM_BINS,
    Block,
    Digests,
    Flags,
    Histograms,
    Merge,
)
from gradscope.native import native_module
from gradscope.observe.cuda.device_buffer import DeviceRowBuffer
from gradscope.observe.cuda.triton_buffer import TritonRowBuffer, open_row_buffer
from gradscope.observe.digests import digest_of
from gradscope.observe.native_hooks import make_native_hooks
from gradscope.observe.nonfinite import has_numbers
from gradscope.observe.readout import EMPTY_ROW, Readout, columns_of, frozen
from gradscope.observe.reduction import (
    Record,
    Unmeasurable,
    reduce_change_on_host,
    reduce_on_host,
)

if TYPE_CHECKING:
    from gradscope.native import _native

__all__ = ["Readout", "RowBuffer", "Targets", "room_for"]

_MERGE: dict[Merge, Callable[[float, float], float]] = {
    Merge.ADD: float.__add__,
    Merge.MIN: min,
    Merge.MAX: max,
}
_MERGES = tuple(_MERGE[column.merge] for column in COLUMNS)
_WIDTH = len(COLUMNS)
_CORE = tuple(column.name for column in COLUMNS if column.is_core)
_NO_BINS = bytes(HISTOGRAM_BINS * 8)
_NO_ROW = -1
_HEADING_BYTES = 16 + 7
"""The maximum size in bytes of a copy, beyond the tensor's own bytes."""
_CALLS = COLUMN_NAMES.index("calls")
_NAN = COLUMN_NAMES.index("nan")  # the infinities are after it
_NO_FLOAT64 = frozenset({"mps"})

Targets = tuple[int, ...]
"""The rows into which one tensor is reduced."""


class RowBuffer:
    """Rows of columns. Only one thread at a time may write a row. The rows of a step are kept until `read_out`.

    A row is stored as its columns in the order of COLUMNS, all float64 (counts are exact up to 2^53). At full
    detail each row also has 128 bins, each uint64. With `has_digest`, each row has a digest, uint64 (see `digests`).
    """

    def __init__(self, *, is_full: bool = False, has_digest: bool = False) -> None:
        self._is_full = is_full
        self._native = native_module()
        self._rows: dict[str, array[int]] = {}
        self._layers = array("I")
        self._kinds: dict[str, int] = {}
        self._kind_of_row = array("I")
        self._devices: dict[torch.device, DeviceRowBuffer | TritonRowBuffer] = {}
        self._cells = bytearray()
        self._bins = bytearray() if is_full else None
        self._digests = bytearray() if has_digest else None
        self._undigested: set[int] = set()
        self._flags = bytearray()
        self._expected = bytearray()
        self._where = frozen(self._layers), frozen(self._kind_of_row)

    def __len__(self) -> int:
        return len(self._layers)

    def row(self, layer: int, kind: str) -> int:
        """Return the index of the row of a layer and kind, which is allocated on first use."""
        of_kind = self._rows.get(kind)
        if of_kind is None:
            of_kind = self._rows[kind] = array("q")
        if layer >= len(of_kind):
            of_kind.extend([_NO_ROW] * (layer + 1 - len(of_kind)))
        row = of_kind[layer]
        if row == _NO_ROW:
            row = of_kind[layer] = len(self._layers)
            self._layers.append(layer)
            self._kind_of_row.append(self._kinds.setdefault(kind, len(self._kinds)))
            self._flags.append(0)
            self._expected.append(0)
            self._cells += EMPTY_ROW.tobytes()
            if self._bins is not None:
                self._bins += _NO_BINS
            if self._digests is not None:
                self._digests += bytes(8)
        return row

    def make_native_hooks(
        self,
        on_gradient: Callable[[Any, torch.Tensor], None],  # Any: the caller's own
        give_up: Callable[[Exception], None],
    ) -> "_native.NativeHooks | None":
        """Return native hooks that write into these rows; None without the native pass."""
        if self._native is None:
            return None
        return make_native_hooks(
            self._native,
            self._cells,
            self._bins,
            self._digests,
            self._expected,
            on_gradient,
            give_up,
        )

    def add(self, row: int, tensor: torch.Tensor, *also: int) -> None:
        """Reduce a tensor into `row` and into the rows `also`.

        If the tensor cannot be read, the rows are flagged NOT_MEASURED.
        """
        where = self._cells, self._bins, self._digests
        if self._native is None or not self._native.add(*where, tensor, row, *also):
            self._add_eagerly(tensor, (row, *also))

    def add_each(
        self,
        tensors: list[torch.Tensor],
        targets: list[Targets],
        kept: NDArray[np.uint8] | None = None,
    ) -> Sequence[int]:
        """Reduce each tensor into its rows, and copy it into `kept` if given.

        Returns the indices of the tensors that were not copied. `room_for` returns the required size of `kept`.
        """
        if self._native is None:
            left: Sequence[int] = range(len(tensors))
        else:
            where = self._cells, self._bins, self._digests
            left = self._native.add_each(*where, tensors, targets, kept)
        queued = self._add_by_device(left, tensors, targets)
        for place in left:
            if place not in queued:
                self._add_eagerly(tensors[place], targets[place])
        return left

    def add_gradients(
        self, parameters: list[torch.Tensor], targets: list[Targets]
    ) -> tuple[Sequence[int], bool]:
        """Reduce the gradient of each parameter into its rows.

        Returns the indices of the parameters without a gradient, and whether all other gradients were read in one call.
        """
        if self._native is None:
            left: Sequence[int] = range(len(parameters))
        else:
            where = self._cells, self._bins, self._digests
            left = self._native.add_gradients(*where, parameters, targets)
            if not left:
                return left, True
        gradients = [(place, parameters[place].grad) for place in left]
        given = [(place, gradient) for place, gradient in gradients if gradient is not None]
        if given:
            self.add_each([each for _, each in given], [targets[place] for place, _ in given])
        return [place for place, gradient in gradients if gradient is None], not given

    def add_changes(
        self, tensors: list[torch.Tensor], targets: list[Targets], kept: NDArray[np.uint8]
    ) -> Sequence[int]:
        """Reduce the change of each tensor since `add_each` copied the same list into `kept`.

        Returns the indices of the tensors that were not copied, or whose layout has changed since.
        """
        if self._native is None:
            return range(len(tensors))
        where = self._cells, self._bins, self._digests
        left: list[int] = self._native.add_changes(*where, tensors, targets, kept)
        return left

    def add_each_change(
        self,
        tensors: Sequence[torch.Tensor],
        targets: Sequence[Targets],
        before: Sequence[torch.Tensor],
    ) -> None:
        """Reduce the change of each tensor since its copy in `before`."""
        places = range(len(tensors))
        queued = self._add_by_device(places, tensors, targets, before)
        for place in places:
            if place not in queued:
                self.add_change(targets[place], tensors[place], before[place])

    def add_change(self, rows: Targets, tensor: torch.Tensor, before: torch.Tensor) -> None:
        """Reduce the change of a tensor since its copy `before`. The digest is computed from the tensor itself."""
        if tensor.device.type == "cpu" and tensor.layout is torch.strided:
            try:
                self._add_record(rows, reduce_change_on_host(tensor, before, is_full=self._is_full))
                self._add_digest(rows, tensor)
            except Unmeasurable:
                self.mark_unmeasured(rows)
        elif tensor.dtype in (torch.float16, torch.bfloat16):
            self._add_eagerly(tensor.float() - before.float(), rows, tensor)
        else:
            self._add_eagerly(tensor - before, rows, tensor)

    def are_finite(self, targets: list[Targets]) -> bool:
        """Return whether all host tensors of this step in the last row of each target were finite.

        Written in C, because it runs inside the training step, when NumPy's code is not in the processor's caches.
        """
        if self._native is not None:
            return bool(self._native.are_finite(self._cells, targets))
        table = np.frombuffer(self._cells, np.float64).reshape(-1, _WIDTH)
        return not table[[rows[-1] for rows in targets], _NAN : _NAN + 3].any()

    def mark_unmeasured(self, rows: Targets) -> None:
        """Flag rows as NOT_MEASURED, because a tensor could not be read."""
        for row in rows:
            self._flags[row] |= Flags.NOT_MEASURED

    def expect_gradient(self, row: int) -> None:
        """Record that a gradient hook was installed. If the hook does not run, the row is flagged NOT_MEASURED."""
        self._expected[row] = 1

    def peek(self) -> Block:
        """Return the rows of the step so far without emptying them. Waits for the device."""
        devices = [buffer.copy() for buffer in self._devices.values()]
        return Readout(self._as_block(), devices, tuple(self._undigested)).block()

    def read_out(self) -> Readout:
        """Return the rows of the step, and empty the buffer."""
        block = self._as_block(is_taken=True)
        devices = [buffer.read_out() for buffer in self._devices.values()]
        readout = Readout(block, devices, tuple(self._undigested))
        self._undigested.clear()
        if self._bins is not None:
            _as_histograms(self._bins)[:] = 0
        return readout

    def _as_block(self, *, is_taken: bool = False) -> Block:
        """Return the rows by column; if `is_taken`, everything except the bins is emptied."""
        columns, flags = columns_of(self._cells, self._flags, self._expected, is_taken=is_taken)
        if len(self._where[0]) < len(self._layers):
            self._where = frozen(self._layers), frozen(self._kind_of_row)
        return Block(
            tuple(self._kinds),
            *self._where,
            flags,
            {name: columns[name] for name in (COLUMN_NAMES if self._is_full else _CORE)},
            None if self._bins is None else _as_histograms(self._bins).copy(),
            None if self._digests is None else _taken_digests(self._digests, is_taken=is_taken),
        )

    def _add_eagerly(
        self, tensor: torch.Tensor, rows: Targets, digested: torch.Tensor | None = None
    ) -> None:
        try:
            device = tensor.device
            if device.type == "cpu":
                record = reduce_on_host(tensor, is_full=self._is_full)
            elif device.type in _NO_FLOAT64:
                record = reduce_on_host(tensor.cpu(), is_full=self._is_full)
            elif not has_numbers(tensor):
                raise Unmeasurable("a meta or fake tensor, which has no values")  # noqa: TRY301 - handled like the exceptions of the functions called here
            elif not self._device_buffer(device).reduce(tensor, rows):
                return
            else:
                record = Record()
            self._add_digest(rows, tensor if digested is None else digested)
        except Unmeasurable:
            self.mark_unmeasured(rows)
            return
        except (RuntimeError, NotImplementedError, TypeError):
            if type(tensor) is torch.Tensor and tensor.layout is torch.strided:
                raise
            self.mark_unmeasured(rows)  # a subclass or a layout that refuses the operations
            return
        self._add_record(rows, record)

    def _add_digest(self, rows: Targets, tensor: torch.Tensor) -> None:
        """Add the digest of a tensor to rows. If it has none, nor have the rows in this step."""
        if self._digests is None:
            return
        device, digest = tensor.device, digest_of(tensor)
        if digest is None:
            self._undigested.update(rows)
        elif isinstance(digest, int):
            with memoryview(self._digests).cast("Q") as digests:
                for row in rows:
                    digests[row] = (digests[row] + digest) % 2**64
        elif isinstance(buffer := self._device_buffer(device), DeviceRowBuffer):
            buffer.add_digest(rows, digest)

    def _add_record(self, rows: Targets, record: Record) -> None:
        columns = [float(getattr(record, column.name)) for column in COLUMNS]
        with memoryview(self._cells).cast("d") as cells:
            for row in rows:
                for i, (merge, value) in enumerate(zip(_MERGES, columns, strict=True), row * _WIDTH):
                    cells[i] = merge(cells[i], value)
        if self._bins is not None and record.bins is not None:
            table = _as_histograms(self._bins)
            for row in rows:
                table[row] += record.bins.astype(np.uint64)

    def _add_by_device(
        self,
        places: Sequence[int],
        tensors: Sequence[torch.Tensor],
        targets: Sequence[Targets],
        before: Sequence[torch.Tensor] | None = None,
    ) -> set[int]:
        """Reduce the tensors that a device pass can group, and return their indices."""
        found: dict[torch.device, list[int]] = {}
        for place in places:
            tensor = tensors[place]
            if tensor.device.type == "cuda" and has_numbers(tensor):
                found.setdefault(tensor.device, []).append(place)
        queued: set[int] = set()
        for device, there in found.items():
            buffer = self._device_buffer(device)
            if isinstance(buffer, TritonRowBuffer):
                some = [tensors[i] for i in there], [targets[i] for i in there]
                done = buffer.reduce_each(*some, [before[i] for i in there] if before else None)
                queued.update(there[i] for i in done)
        self._count_calls([targets[place] for place in queued])
        return queued

    def _count_calls(self, targets: Sequence[Targets]) -> None:
        with memoryview(self._cells).cast("d") as cells:
            for rows in targets:
                for row in rows:
                    cells[row * _WIDTH + _CALLS] += 1.0

    def _device_buffer(self, device: torch.device) -> DeviceRowBuffer | TritonRowBuffer:
        buffer = self._devices.get(device)
        if buffer is None:
            buffer = self._devices[device] = open_row_buffer(
                device, is_full=self._is_full, has_digest=self._digests is not None
            )
        return buffer


def room_for(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes that `add_each` needs for copies of the tensors that it can read."""
    return sum(
        _HEADING_BYTES + tensor.nbytes
        for tensor in tensors
        if type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type == "cpu"
    )


def _as_histograms(bins: bytearray) -> Histograms:
    return np.frombuffer(bins, np.uint64).reshape(-1, HISTOGRAM_BINS)


def _taken_digests(digests: bytearray, *, is_taken: bool) -> Digests:
    table = np.frombuffer(digests, np.uint64)
    copy = table.copy()
    if is_taken:
        table[:] = 0
    return copy
