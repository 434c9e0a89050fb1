"""Triton kernels: all columns of a tensor in one read of its memory. Experimental, off by default.

The two kernels, `reduce_one` and `reduce_many`, differ in the source of their arguments. To test whether a span
is finite, a kernel compares its least and greatest elements, as integers in the order of the floating-point
values: NaN and infinities are outside the range of finite values. A span that is not finite is read again, and
each element is classified by its bits. Full detail always classifies each element. float16 and bfloat16 are first
widened to float32, which is exact. Elements and their squares are summed in float64: with n elements, the error is
at most n * 2^-53 of the sum of magnitudes. Programs merge into a line by atomic operations, so two runs may differ
in the last bits of `sum` and `sumsq`.

`row_layout` defines the memory layout. Addresses are passed as integers, so a launch does not query the driver.
"""
# ruff: noqa: ANN001, ANN201, ANN202, N803, N806, PLR0917 - Triton's own ways
# mypy: disable-error-code="import-not-found, import-untyped, no-untyped-def, no-untyped-call"

from __future__ import annotations  # Triton is optional, and its names are in signatures

from typing import Any

import torch

from gradscope.columns import HISTOGRAM_BINS
from gradscope.observe.cuda.row_layout import BINS_AT, ITEM_WORDS, LINE_COLUMNS

try:
    import triton
    from triton import language as tl
except ImportError:  # `triton_pass` reports it, and does not call any of this
    triton = None

__all__ = ["BLOCK_BYTES", "WARPS", "kind_of", "reduce_many", "reduce_one"]

WARPS = 4

_THREADS = WARPS * 32

BLOCK_BYTES = _THREADS * 16
"""Bytes that a program reads at a time: 16 for each of its threads."""


def kind_of(dtype: torch.dtype) -> Any:  # Any: Triton's own kind of dtype, as above
    """Return Triton's name of a dtype."""
    return getattr(tl, str(dtype).removeprefix("torch."))


_NUMBERS = ["address", "size", "repeats", "line0", "line1", "line2", "line3", "items"]
"""Arguments whose values do not cause a new compilation."""


def _jit(function: Any) -> Any:  # Any: Triton's own kind of function, which publishes no type
    return function if triton is None else triton.jit(function, do_not_specialize=_NUMBERS)


def _constant(value: int) -> Any:  # Any: as above
    return value if triton is None else tl.constexpr(value)


_BINS_AT, _ITEM_WORDS, _BINS = _constant(BINS_AT), _constant(ITEM_WORDS), _constant(HISTOGRAM_BINS)
_COUNT, _NAN, _POSINF, _NEGINF, _ZERO, _SUBNORMAL, _SUM, _SUMSQ, _MIN, _MAX, _CALLS = (
    _constant(LINE_COLUMNS.index(name))
    for name in (
        "count", "nan", "posinf", "neginf", "zero", "subnormal", "sum", "sumsq", "min", "max", "calls",
    )
)  # fmt: skip
_ROW_BITS, _FEW, _SOME = _constant(BLOCK_BYTES * 8), _constant(_THREADS), _constant(_THREADS * 4)


@_jit
def reduce_one(
    address: tl.int64, size: tl.int64, repeats: tl.int64,
    line0: tl.int64, line1: tl.int64, line2: tl.int64, line3: tl.int64,
    KIND: tl.constexpr, LEAST_NORMAL: tl.constexpr,
    IS_ALIGNED: tl.constexpr, IS_FULL: tl.constexpr,
):  # fmt: skip
    """Reduce one tensor; each program reads a span of whole blocks."""
    BLOCK: tl.constexpr = _ROW_BITS // KIND.primitive_bitwidth
    blocks = (size + BLOCK - 1) // BLOCK
    programs = tl.num_programs(0).to(tl.int64)
    span = (blocks + programs - 1) // programs * BLOCK
    begin = tl.program_id(0).to(tl.int64) * span
    end = tl.minimum(begin + span, size)
    if begin < end:
        _reduce_span(
            address, address, begin, end, repeats, (begin == 0).to(tl.int64),
            line0, line1, line2, line3, KIND, LEAST_NORMAL, IS_ALIGNED, IS_FULL, False,
        )  # fmt: skip


@_jit
def reduce_many(
    items: tl.int64, KIND: tl.constexpr, LEAST_NORMAL: tl.constexpr,
    IS_ALIGNED: tl.constexpr, IS_FULL: tl.constexpr, IS_CHANGE: tl.constexpr,
):  # fmt: skip
    """Reduce one item of a table per program; with IS_CHANGE, the item's values minus the earlier values."""
    item = items.to(tl.pointer_type(tl.int64)) + tl.program_id(0).to(tl.int64) * _ITEM_WORDS
    _reduce_span(
        tl.load(item), tl.load(item + 1), 0, tl.load(item + 2), tl.load(item + 3), tl.load(item + 4),
        tl.load(item + 5), tl.load(item + 6), tl.load(item + 7), tl.load(item + 8),
        KIND, LEAST_NORMAL, IS_ALIGNED, IS_FULL, IS_CHANGE,
    )  # fmt: skip


@_jit
def _reduce_span(
    address, before, begin, end, repeats, calls, line0, line1, line2, line3,
    KIND: tl.constexpr, LEAST_NORMAL: tl.constexpr,
    IS_ALIGNED: tl.constexpr, IS_FULL: tl.constexpr, IS_CHANGE: tl.constexpr,
):  # fmt: skip
    """Reduce the elements from begin to end, and merge the result into up to four lines."""
    pointer = address.to(tl.pointer_type(KIND))
    earlier = before.to(tl.pointer_type(KIND))
    if IS_ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
        earlier = tl.multiple_of(earlier, 16)
    count = (end - begin).to(tl.int64)
    if IS_FULL:
        nan, posinf, neginf, zero, subnormal, total, squares, least, greatest, bins = _judged(
            pointer, earlier, begin, end, LEAST_NORMAL, True, IS_CHANGE
        )
    else:
        total, squares, least_key, greatest_key = _quick(pointer, earlier, begin, end, IS_CHANGE)
        least, greatest = _number_of(least_key), _number_of(greatest_key)
        none = tl.zeros((), tl.int64)
        nan, posinf, neginf, zero, subnormal = none, none, none, none, none
        bins = tl.zeros((_BINS,), tl.int32)
        infinity = _infinity(least_key)
        if (least_key < -infinity) | (greatest_key >= infinity):
            nan, posinf, neginf, zero, subnormal, total, squares, least, greatest, bins = _judged(
                pointer, earlier, begin, end, LEAST_NORMAL, False, IS_CHANGE
            )
    for each in tl.static_range(4):
        line = line0 if each == 0 else line1 if each == 1 else line2 if each == 2 else line3
        if line != 0:
            _merge(
                line, count * repeats, nan * repeats, posinf * repeats, neginf * repeats,
                zero * repeats, subnormal * repeats, total * repeats.to(tl.float64),
                squares * repeats.to(tl.float64), least, greatest, calls, bins, repeats, IS_FULL,
            )  # fmt: skip


@_jit
def _quick(pointer, earlier, begin, end, IS_CHANGE: tl.constexpr):
    """Return (sum, sum of squares, least key, greatest key). The sums are valid only if both keys are finite."""
    BLOCK: tl.constexpr = _ROW_BITS // pointer.dtype.element_ty.primitive_bitwidth
    lanes = tl.arange(0, BLOCK)
    whole = begin + (end - begin) // BLOCK * BLOCK
    least = _infinities(pointer, BLOCK, IS_CHANGE)
    greatest = -least - 1
    total = tl.zeros((BLOCK,), tl.float64)
    squares = tl.zeros((BLOCK,), tl.float64)
    for start in range(begin, whole, BLOCK):
        x = _read(pointer + start, earlier + start, lanes, BLOCK, True, IS_CHANGE)
        key, wide = _key_of(x), x.to(tl.float64)
        least = tl.minimum(least, key)
        greatest = tl.maximum(greatest, key)
        total += wide
        squares += wide * wide
    if whole < end:
        rest = end - whole
        x = _read(pointer + whole, earlier + whole, lanes, rest, False, IS_CHANGE)
        key, wide = _key_of(x), x.to(tl.float64)
        least = tl.minimum(least, tl.where(lanes < rest, key, least))
        greatest = tl.maximum(greatest, tl.where(lanes < rest, key, greatest))
        total += wide
        squares += wide * wide
    return tl.sum(total), tl.sum(squares), tl.min(least), tl.max(greatest)


@_jit
def _judged(
    pointer, earlier, begin, end,
    LEAST_NORMAL: tl.constexpr, IS_FULL: tl.constexpr, IS_CHANGE: tl.constexpr,
):  # fmt: skip
    """Return the columns from nan to max, and the bins, with each element classified by its bits."""
    BLOCK: tl.constexpr = _SOME if IS_FULL else _FEW
    lanes = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float64)
    squares = tl.zeros((BLOCK,), tl.float64)
    least = _infinities(pointer, BLOCK, IS_CHANGE)
    greatest = -least - 1
    none = tl.zeros((BLOCK,), tl.int32)
    nan, posinf, neginf, zero, subnormal = none, none, none, none, none
    bins = tl.zeros((_BINS,), tl.int32)
    for start in range(begin, end, BLOCK):
        rest = end - start
        is_there = lanes < rest
        if rest < BLOCK:
            x = _read(pointer + start, earlier + start, lanes, rest, False, IS_CHANGE)
        else:
            x = _read(pointer + start, earlier + start, lanes, rest, True, IS_CHANGE)
        bits = _bits_of(x)
        magnitude, infinity = _magnitude_of(bits), _infinity(bits)
        is_finite = magnitude < infinity
        wide = tl.where(is_finite, x.to(tl.float64), 0.0)
        total += wide
        squares += wide * wide
        key = _in_order(bits)
        least = tl.minimum(least, tl.where(is_there & is_finite, key, least))
        greatest = tl.maximum(greatest, tl.where(is_there & is_finite, key, greatest))
        nan += (magnitude > infinity).to(tl.int32)
        posinf += ((magnitude == infinity) & (bits > 0)).to(tl.int32)
        neginf += ((magnitude == infinity) & (bits < 0)).to(tl.int32)
        if IS_FULL:
            zero += (is_there & (magnitude == 0)).to(tl.int32)
            subnormal += ((magnitude != 0) & (magnitude < LEAST_NORMAL)).to(tl.int32)
            bins += _histogram(bits, magnitude, is_finite & (magnitude != 0))
    return (
        _whole(nan), _whole(posinf), _whole(neginf), _whole(zero), _whole(subnormal),
        tl.sum(total), tl.sum(squares), _number_of(tl.min(least)), _number_of(tl.max(greatest)), bins,
    )  # fmt: skip


@_jit
def _merge(
    line, count, nan, posinf, neginf, zero, subnormal, total, squares, least, greatest, calls, bins,
    repeats, IS_FULL: tl.constexpr,
):  # fmt: skip
    """Merge a record into a line; counts of zero are skipped."""
    cells = line.to(tl.pointer_type(tl.float64))
    tl.atomic_add(cells + _COUNT, count.to(tl.float64), sem="relaxed")
    if nan + posinf + neginf > 0:
        tl.atomic_add(cells + _NAN, nan.to(tl.float64), sem="relaxed")
        tl.atomic_add(cells + _POSINF, posinf.to(tl.float64), sem="relaxed")
        tl.atomic_add(cells + _NEGINF, neginf.to(tl.float64), sem="relaxed")
    if IS_FULL:
        if zero + subnormal > 0:
            tl.atomic_add(cells + _ZERO, zero.to(tl.float64), sem="relaxed")
            tl.atomic_add(cells + _SUBNORMAL, subnormal.to(tl.float64), sem="relaxed")
        places = line.to(tl.pointer_type(tl.int64)) + _BINS_AT + tl.arange(0, _BINS)
        tl.atomic_add(places, bins.to(tl.int64) * repeats, mask=bins > 0, sem="relaxed")
    tl.atomic_add(cells + _SUM, total, sem="relaxed")
    tl.atomic_add(cells + _SUMSQ, squares, sem="relaxed")
    tl.atomic_min(cells + _MIN, least, sem="relaxed")
    tl.atomic_max(cells + _MAX, greatest, sem="relaxed")
    if calls > 0:
        tl.atomic_add(cells + _CALLS, calls.to(tl.float64), sem="relaxed")


@_jit
def _read(pointer, earlier, lanes, rest, IS_WHOLE: tl.constexpr, IS_CHANGE: tl.constexpr):
    """Return a block as float32 or float64, or a change as float64; lanes beyond the end are 0."""
    if IS_WHOLE:
        x = _widened(tl.load(pointer + lanes))
    else:
        x = _widened(tl.load(pointer + lanes, mask=lanes < rest, other=0.0))
    if IS_CHANGE:
        if IS_WHOLE:
            was = _widened(tl.load(earlier + lanes))
        else:
            was = _widened(tl.load(earlier + lanes, mask=lanes < rest, other=0.0))
        x = x.to(tl.float64) - was.to(tl.float64)
    return x


@_jit
def _widened(raw):
    """Return float16 and bfloat16 widened to float32, other dtypes unchanged. Also exact for subnormals."""
    if raw.dtype == tl.bfloat16:
        shifted = raw.to(tl.int16, bitcast=True).to(tl.int32) << 16
        return shifted.to(tl.float32, bitcast=True)
    elif raw.dtype == tl.float16:  # noqa: RET505 - Triton needs both branches of a constant condition
        return raw.to(tl.float32)
    else:
        return raw


@_jit
def _infinities(pointer, BLOCK: tl.constexpr, IS_CHANGE: tl.constexpr):
    """Return the key of infinity for each lane, with the width of the elements' keys."""
    if IS_CHANGE or pointer.dtype.element_ty == tl.float64:
        return tl.full((BLOCK,), 0x7FF0000000000000, tl.int64)
    else:  # noqa: RET505 - Triton needs both branches of a constant condition
        return tl.full((BLOCK,), 0x7F800000, tl.int32)


@_jit
def _bits_of(x):
    if x.dtype == tl.float64:
        return x.to(tl.int64, bitcast=True)
    else:  # noqa: RET505 - as above
        return x.to(tl.int32, bitcast=True)


@_jit
def _magnitude_of(bits):
    if bits.dtype == tl.int64:
        return bits & 0x7FFFFFFFFFFFFFFF
    else:  # noqa: RET505 - as above
        return bits & 0x7FFFFFFF


@_jit
def _infinity(bits):
    """Return the bits of infinity as an integer of the same width."""
    if bits.dtype == tl.int64:
        return tl.full((), 0x7FF0000000000000, tl.int64)
    else:  # noqa: RET505 - as above
        return tl.full((), 0x7F800000, tl.int32)


@_jit
def _in_order(bits):
    """Map float bits to integers in the order of the float values, and such integers back to bits."""
    if bits.dtype == tl.int64:
        return bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
    else:  # noqa: RET505 - as above
        return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@_jit
def _key_of(x):
    return _in_order(_bits_of(x))


@_jit
def _number_of(key):
    """Return the float64 value of a key."""
    bits = _in_order(key)
    if bits.dtype == tl.int64:
        return bits.to(tl.float64, bitcast=True)
    else:  # noqa: RET505 - as above
        return bits.to(tl.float32, bitcast=True).to(tl.float64)


@_jit
def _histogram(bits, magnitude, is_counted):
    """Count exponents: bins 0 to 63 for positive elements, 64 to 127 for negative ones. 1.0 is in bin 47."""
    if bits.dtype == tl.int64:
        exponent = (magnitude >> 52).to(tl.int32) - 1023
    else:
        exponent = (magnitude >> 23) - 127
    place = tl.minimum(tl.maximum(exponent + 47, 0), 63) + tl.where(bits < 0, 64, 0)
    return tl.histogram(place, _BINS, is_counted)


@_jit
def _whole(lanes):
    return tl.sum(lanes.to(tl.int64))
