"""Reduces a tensor to one record of columns.

All dtypes are widened to float64 block by block. So squares of large float16 or float32 values do not overflow, and
the standard deviation is accurate even if the mean is much larger. With n elements, the error of the sum is at most
n/2 · 2^-53 of the sum of magnitudes (torch adds pairwise, so the usual error is far smaller).

- `reduce_on_host` is for CPU tensors. It may read values and branch, so finite tensors, the common case, take three
  passes over a block in cache.
- `reduce_on_device` never synchronises: all columns are computed by masks.
In the tests, each function is the reference of the other, and both are references of the native pass.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy

from gradscope.columns import COLUMN_NAMES, COLUMNS, HISTOGRAM_BINS, Merge
from gradscope.hooks import local_part
from gradscope.observe.exponents import bins_on_device, bins_on_host

__all__ = [
    "DEVICE_COLUMNS",
    "DeviceRecord",
    "Record",
    "Unmeasurable",
    "reduce_change_on_host",
    "reduce_on_device",
    "reduce_on_host",
]

_HOST_BLOCK = 1 << 15
"""Number of elements that a CPU widens at a time: 256 kB as float64, which fits in a second-level cache."""

_CHANGE_BLOCK = 1 << 20
_DEVICE_BLOCK = 1 << 22
_INFINITY = float("inf")

_Bits: TypeAlias = tuple[torch.dtype, int, int]
"""The integer dtype of the same width, the mask without the sign bit, and the bits of the smallest normal magnitude."""

_MAGNITUDE = 0x7FFFFFFFFFFFFFFF
_NARROWER_BITS: _Bits = (torch.int64, _MAGNITUDE, 0x381 << 52)
"""For float64 values computed from float32: subnormal below float32's smallest normal number, 2^-126."""

_BITS: dict[torch.dtype, _Bits] = {
    torch.float64: (torch.int64, _MAGNITUDE, 1 << 52),
    torch.float32: (torch.int32, 0x7FFFFFFF, 1 << 23),
    torch.float16: (torch.int16, 0x7FFF, 1 << 10),
    torch.bfloat16: (torch.int16, 0x7FFF, 1 << 7),
    torch.complex128: (torch.int64, _MAGNITUDE, 1 << 52),
    torch.complex64: _NARROWER_BITS,
    torch.complex32: (torch.int64, _MAGNITUDE, 0x3F1 << 52),
}
"""For complex dtypes: the bit patterns of the magnitude, which is float64."""


_WITHOUT_ELEMENTS = ("meta", "quantized", "nested", "mkldnn")


class Unmeasurable(Exception):  # noqa: N818 - not an error: the row is flagged instead
    """The tensor has no data to read; the message says why."""


@dataclass(slots=True)
class Record:
    """The columns of one tensor, as Python numbers, in the order of `gradscope.columns.COLUMNS`.

    Merging an empty record with another record returns the other record.
    """

    calls: int = 1
    count: int = 0
    nan: int = 0
    posinf: int = 0
    neginf: int = 0
    zero: int = 0
    subnormal: int = 0
    sum: float = 0.0
    sumsq: float = 0.0
    min: float = _INFINITY
    max: float = -_INFINITY
    bins: NDArray[np.int64] | None = field(default=None, compare=False)
    """The exponent histogram, at full detail."""


class DeviceRecord(NamedTuple):
    """A record on a device: DEVICE_COLUMNS as float64, and at full detail the 128 bins as int64."""

    columns: torch.Tensor
    bins: torch.Tensor | None


DEVICE_COLUMNS = tuple(name for name in COLUMN_NAMES if name != "calls")
"""The order of the columns that `reduce_on_device` returns: all but `calls`, which the host counts."""

_COUNT, _ZERO = DEVICE_COLUMNS.index("count"), DEVICE_COLUMNS.index("zero")
_ADDED = sum(column.merge is Merge.ADD for column in COLUMNS) - 1
"""Columns that merge by addition. They are first, then `min`, then `max`."""


def reduce_on_host(tensor: torch.Tensor, *, is_full: bool = False) -> Record:
    """Return the record of a CPU tensor of any shape and floating-point or complex dtype.

    Raises Unmeasurable if there is no data to read (meta, quantized, nested, functorch tensors).
    """
    flat, repeats, size, bits = _readable(tensor)
    record = _empty_record(size, is_full=is_full)
    _add_flat(record, flat, repeats, bits if is_full else None)
    if is_full:
        record.zero += size - flat.numel() * repeats  # elements that a sparse tensor does not store
    return record


def reduce_change_on_host(now: torch.Tensor, before: torch.Tensor, *, is_full: bool = False) -> Record:
    """Return the record of now - before, with each difference computed in float64. Both are CPU tensors of one shape.

    For complex parameters, the record is that of the magnitude of the change. A difference is subnormal if it is below
    the normal range of float32, or of float64 for float64 tensors. Raises Unmeasurable like `reduce_on_host`.
    """
    now, before = _plain(now).detach(), _plain(before).detach()
    record = _empty_record(now.numel(), is_full=is_full)
    is_wide = now.dtype in (torch.float64, torch.complex128)
    bits = _BITS[torch.float64] if is_wide else _NARROWER_BITS
    rows = max(1, _CHANGE_BLOCK * len(now) // max(1, now.numel())) if now.dim() else 1
    for new, old in zip(_split(now, rows), _split(before, rows), strict=True):
        if new.is_complex():
            change = (new.to(torch.complex128) - old.to(torch.complex128)).abs()
        else:
            change = new.double() - old.double()
        _add_flat(record, change.reshape(-1), 1, bits if is_full else None)
    return record


def _empty_record(size: int, *, is_full: bool) -> Record:
    return Record(count=size, bins=np.zeros(HISTOGRAM_BINS, np.int64) if is_full else None)


def _split(tensor: torch.Tensor, rows: int) -> Sequence[torch.Tensor]:
    return torch.split(tensor, rows) if tensor.dim() else (tensor,)


def _add_flat(record: Record, flat: torch.Tensor, repeats: int, bits: _Bits | None) -> None:
    for block in torch.split(flat, _HOST_BLOCK) if flat.numel() > _HOST_BLOCK else (flat,):
        if block.numel():
            _add_block(record, block, repeats)
        if bits is not None and block.numel():
            zero, subnormal = _count_small(block, bits)
            record.zero += int(zero) * repeats
            record.subnormal += int(subnormal) * repeats
        if record.bins is not None:
            record.bins += bins_on_host(block) * repeats


def _add_block(record: Record, block: torch.Tensor, repeats: int) -> None:
    wide = block.double()
    total = wide.sum().item()
    if not math.isfinite(total):
        wide = _without_nonfinite(record, wide, repeats)
        if not wide.numel():
            return
        total = wide.sum().item()
    least, greatest = torch.aminmax(wide)
    record.sum += total * repeats
    record.sumsq += torch.dot(wide, wide).item() * repeats
    record.min = min(record.min, least.item())
    record.max = max(record.max, greatest.item())


def _without_nonfinite(record: Record, wide: torch.Tensor, repeats: int) -> torch.Tensor:
    record.nan += int(wide.isnan().sum()) * repeats
    record.posinf += int(wide.isposinf().sum()) * repeats
    record.neginf += int(wide.isneginf().sum()) * repeats
    return wide[wide.isfinite()]


def reduce_on_device(tensor: torch.Tensor, *, is_full: bool = False) -> DeviceRecord:
    """Return the record of a tensor on its own device, without synchronisation.

    `zero` and `subnormal` are 0 unless `is_full`. Raises Unmeasurable like `reduce_on_host`.
    """
    flat, repeats, size, bits = _readable(tensor)
    blocks = [block for block in torch.split(flat, _DEVICE_BLOCK) if block.numel()]
    bins = None
    if is_full:
        bins = torch.zeros(HISTOGRAM_BINS, dtype=torch.int64, device=flat.device)
        for block in blocks:
            bins.add_(bins_on_device(block), alpha=repeats)
    columns = _device_columns(
        [_reduce_device_block(b, bits, is_full) for b in blocks], size, repeats, flat.device
    )
    if is_full:
        columns[_ZERO] += size - flat.numel() * repeats
    return DeviceRecord(columns, bins)


def _device_columns(
    pieces: list[torch.Tensor], size: int, repeats: int, device: torch.device
) -> torch.Tensor:
    if not pieces:
        empty = torch.zeros(len(DEVICE_COLUMNS), dtype=torch.float64, device=device)
        empty[_COUNT].fill_(size)
        empty[-2].fill_(_INFINITY)
        empty[-1].fill_(-_INFINITY)
        return empty
    table = torch.stack(pieces)
    added = table[:, :_ADDED].sum(0) * repeats
    added[_COUNT].fill_(size)
    return torch.cat((added, table[:, -2].amin().view(1), table[:, -1].amax().view(1)))


def _reduce_device_block(block: torch.Tensor, bits: _Bits, is_full: bool) -> torch.Tensor:
    wide = block.double()
    is_finite = wide.isfinite()
    clean = torch.where(is_finite, wide, 0.0)
    none = torch.zeros((), dtype=torch.int64, device=block.device)
    zero, subnormal = _count_small(block, bits) if is_full else (none, none)
    columns = {
        "count": none,  # the caller adds it
        "nan": wide.isnan().sum(),
        "posinf": wide.isposinf().sum(),
        "neginf": wide.isneginf().sum(),
        "zero": zero,
        "subnormal": subnormal,
        "sum": clean.sum(),
        "sumsq": (clean * clean).sum(),
        "min": torch.where(is_finite, wide, _INFINITY).amin(),
        "max": torch.where(is_finite, wide, -_INFINITY).amax(),
    }
    return torch.stack([columns[name].double() for name in DEVICE_COLUMNS])


def _count_small(block: torch.Tensor, bits: _Bits) -> tuple[torch.Tensor, torch.Tensor]:
    """Count zeros and subnormals by their bits, so that a flush-to-zero mode has no effect."""
    integer, mask, least_normal = bits
    magnitude = block.view(integer) & mask
    is_zero = magnitude == 0
    return is_zero.sum(), (~is_zero & (magnitude < least_normal)).sum()


class _Readable(NamedTuple):
    flat: torch.Tensor
    repeats: int
    size: int
    bits: _Bits


def _readable(tensor: torch.Tensor) -> _Readable:
    """Return the elements to read, the repeats of each, the size of the whole tensor, and the bit patterns.

    Memory that is dense in any order of dims is read in place; a dim of stride 0 is read once.
    """
    tensor = _plain(tensor).detach()
    size, bits = tensor.numel(), _BITS[tensor.dtype]
    if tensor.layout is not torch.strided:
        values = tensor.coalesce().values() if tensor.layout is torch.sparse_coo else tensor.values()
        return _Readable(_real(values).reshape(-1), 1, size, bits)
    repeats = 1
    for dim, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.size(dim) > 1:
            repeats *= tensor.size(dim)
            tensor = tensor.narrow(dim, 0, 1)
    return _Readable(_flat(_real(tensor)), repeats, size, bits)


def _plain(tensor: torch.Tensor) -> torch.Tensor:
    if is_lazy(tensor):
        raise Unmeasurable("a lazy parameter without a shape")
    if torch._C._functorch.is_functorch_wrapped_tensor(tensor):  # noqa: SLF001 - no public name
        raise Unmeasurable("a tensor inside a torch.func transform has no values of its own")
    if isinstance(tensor, FakeTensor):
        raise Unmeasurable("a fake tensor")
    tensor = local_part(tensor)
    if tensor.is_meta or tensor.is_quantized or tensor.is_nested or tensor.is_mkldnn:
        kind = next(name for name in _WITHOUT_ELEMENTS if getattr(tensor, f"is_{name}"))
        raise Unmeasurable(f"a {kind} tensor")
    if tensor.dtype not in _BITS:
        return tensor.float()
    return tensor


def _real(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_complex():
        return tensor.resolve_conj().to(torch.complex128).abs()
    return tensor.resolve_neg()


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_contiguous():
        return tensor.view(-1)
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return tensor.permute(order).reshape(-1)
