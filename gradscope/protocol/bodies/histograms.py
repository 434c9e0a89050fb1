"""Packs and unpacks the exponent histogram of a step: for each row and sign, the range of nonempty bins.

The elements of a tensor are mostly in 10 to 30 adjacent bins of the 128. So each row sends, for each
sign, its first nonempty bin, the length of the range (with empty bins inside), and the counts of both
signs in the narrowest dtype that represents them. Five arrays among the other arrays of the step
describe the ranges. The counts follow all arrays: first those of eight bytes, then the narrower ones,
each width row by row.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import BINADES, HISTOGRAM_BINS, Histograms
from gradscope.errors import ProtocolError, UsageError
from gradscope.protocol.limits import HISTOGRAM_ROWS_LIMIT

__all__ = ["HISTOGRAM_ARRAYS", "PackBins", "pack_histogram", "unpack_histogram"]

_FIRST: Final[tuple[str, ...]] = ("positive_first", "negative_first")
_BINS: Final[tuple[str, ...]] = ("positive_bins", "negative_bins")
_WIDTH: Final = "bin_bytes"
HISTOGRAM_ARRAYS: Final[tuple[str, ...]] = (*_FIRST, *_BINS, _WIDTH)
"""The names of the five arrays, all with dtype u1."""

_WIDTHS: Final = (8, 4, 2, 1)

_TAKES: Final = np.repeat(np.array([0, 1, 2, 4, 8], np.uint8), [1, 8, 8, 16, 32])
"""The size of a number in bytes, by its length in bits."""

_ROWS_AT_ONCE: Final = 1024
"""Number of rows (1 MB) that are packed at a time, so that intermediate arrays stay in the CPU cache."""

_Bytes: TypeAlias = NDArray[np.uint8]
_Counts: TypeAlias = NDArray[np.unsignedinteger] | bytes
_Places: TypeAlias = NDArray[np.int64]

PackBins: TypeAlias = Callable[[Histograms], tuple[bytes, Sequence[_Counts]]]
"""Returns the five arrays of some rows, concatenated, and the counts of each width, the widest first,
little-endian. The agent passes the implementation in C."""

_NO_ROWS: Final = np.empty((len(HISTOGRAM_ARRAYS), 0), np.uint8)


def pack_histogram(
    histogram: Histograms, pack_bins: PackBins | None = None
) -> tuple[dict[str, _Bytes], list[_Counts]]:
    """Return the five arrays by name, and the counts in the order of the body, little-endian.

    Raises UsageError if there are too many rows.
    """
    rows = len(histogram)
    if rows > HISTOGRAM_ROWS_LIMIT:
        raise UsageError(
            f"expected at most {HISTOGRAM_ROWS_LIMIT} rows in a step with a histogram, got {rows}: "
            'observe fewer layers (layers=…), or leave it out (detail="core")'
        )
    pack, histogram = pack_bins or _pack_rows, np.ascontiguousarray(histogram)
    packed = [pack(histogram[at : at + _ROWS_AT_ONCE]) for at in range(0, rows, _ROWS_AT_ONCE)]
    five = (np.frombuffer(where, np.uint8).reshape(len(HISTOGRAM_ARRAYS), -1) for where, _ in packed)
    wheres = np.concatenate([_NO_ROWS, *five], axis=1)
    arrays = dict(zip(HISTOGRAM_ARRAYS, wheres, strict=True))
    return arrays, [counts[i] for i in range(len(_WIDTHS)) for _, counts in packed]


def unpack_histogram(arrays: Mapping[str, NDArray[np.generic]], rows: int, counts: bytes) -> Histograms:
    """Return the histogram of `rows` rows. Raises ProtocolError if arrays and counts do not match."""
    if not counts and not any(array.any() for array in arrays.values()):
        return np.broadcast_to(np.zeros(1, np.uint64), (rows, HISTOGRAM_BINS))
    if rows > HISTOGRAM_ROWS_LIMIT:
        raise ProtocolError(f"a histogram has {rows} rows, the limit is {HISTOGRAM_ROWS_LIMIT}")
    first, length = (
        np.stack([arrays[name] for name in names], axis=1).astype(np.int64) for names in (_FIRST, _BINS)
    )
    width = arrays[_WIDTH].astype(np.int64)
    _check_ranges(first, length, width)
    named_bytes = int(length.sum(axis=1) @ width)
    if named_bytes != len(counts):
        raise ProtocolError(f"expected {named_bytes} bytes of counts, got {len(counts)}")
    flat = np.zeros(rows * HISTOGRAM_BINS, np.uint64)
    places = _count_indices(first, length)
    of_count = np.repeat(width, length[:, 0] + length[:, 1])
    offset = 0
    for size in _WIDTHS:
        chosen = places[of_count == size]
        if len(chosen):
            flat[chosen] = np.frombuffer(counts, np.dtype(f"<u{size}"), len(chosen), offset)
            offset += len(chosen) * size
    return flat.reshape(rows, HISTOGRAM_BINS)


def _pack_rows(histogram: Histograms) -> tuple[bytes, Sequence[_Counts]]:
    """Return the five arrays concatenated, and the counts of each width, the widest first."""
    first, length = _nonempty_ranges(histogram)
    counts = histogram.reshape(-1).take(_count_indices(first, length))
    many = length[:, 0] + length[:, 1]
    width = _bytes_per_count(counts, many)
    of_count = np.repeat(width, many)
    where = np.concatenate([first.T, length.T, width[np.newaxis]], dtype=np.uint8, casting="unsafe")
    return where.tobytes(), [counts[of_count == size].astype(f"<u{size}") for size in _WIDTHS]


def _nonempty_ranges(histogram: Histograms) -> tuple[_Places, _Places]:
    """Return the first nonempty bin and the length of each range, shape (rows, 2).

    The 64 bins of a sign become the bits of one integer, so few operations on few numbers are needed.
    """
    bits = np.packbits(histogram != 0, bitorder="little").view("<u8").reshape(-1, 2)
    first = np.maximum(_bit_lengths(bits & -bits) - 1, 0)
    return first, _bit_lengths(bits) - first


def _count_indices(first: _Places, length: _Places) -> _Places:
    """Return the indices of the counts of all ranges in the flat histogram, row by row."""
    start = np.arange(0, first.size * BINADES, BINADES) + first.reshape(-1)
    many = length.reshape(-1)
    after = np.cumsum(many)
    places = np.repeat(start - after + many, many)
    places += np.arange(len(places))
    return places


def _bytes_per_count(counts: NDArray[np.uint64], many: _Places) -> _Bytes:
    """Return the bytes per count in each row; `many` is the number of counts of each row."""
    width = np.zeros(len(many), np.uint8)
    has_any = np.flatnonzero(many)
    if len(has_any):
        begins = (np.cumsum(many) - many)[has_any]
        width[has_any] = _TAKES[_bit_lengths(np.bitwise_or.reduceat(counts, begins))]
    return width


def _bit_lengths(numbers: NDArray[np.uint64]) -> _Places:
    """Return `int.bit_length` of each number, from 0 to 64, using the exponent of its float64.

    A float64 has 53 bits of precision. The bit below the highest one is cleared, so that no number is
    rounded up.
    """
    floats = (numbers & ~(numbers >> np.uint64(1))).astype(np.float64)
    exponents: _Places = (floats.view(np.int64) >> 52) - 1022
    return np.maximum(exponents, 0)


def _check_ranges(first: NDArray[np.int64], length: NDArray[np.int64], width: NDArray[Any]) -> None:
    if (first + length > BINADES).any():
        end = int((first + length).max()) - 1
        raise ProtocolError(f"the last bin of a histogram must be at most {BINADES - 1}, got {end}")
    if not np.isin(width, (0, *_WIDTHS)).all():
        raise ProtocolError("a histogram has counts of a width other than 1, 2, 4 and 8 bytes")
    if ((width == 0) != (length == 0).all(axis=1)).any():
        raise ProtocolError("a histogram has a row with bins and no width, or a width and no bins")
