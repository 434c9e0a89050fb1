"""The exponent histogram of a step as bytes and back: of each row and sign the stretch that is in use.

The numbers of a tensor mostly lie in 10 to 30 of the 128 bins, one beside the other. So a row sends for
each sign its first bin in use and how many follow, empty ones between them included, and the counts of
both signs in the narrowest type that holds them. Where the stretches lie travels as five arrays among
the step's others; the counts come behind all arrays, those of eight bytes first, each width row by row.
"""

import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import BINADES, HISTOGRAM_BINS, Histograms
from gradscope.errors import ProtocolError, UsageError
from gradscope.protocol.limits import HISTOGRAM_ROWS_LIMIT

__all__ = ["HISTOGRAM_ARRAYS", "pack_histogram", "unpack_histogram"]

_FIRST: Final[tuple[str, ...]] = ("positive_first", "negative_first")
_BINS: Final[tuple[str, ...]] = ("positive_bins", "negative_bins")
_WIDTH: Final = "bin_bytes"
HISTOGRAM_ARRAYS: Final[tuple[str, ...]] = (*_FIRST, *_BINS, _WIDTH)
"""The names of the five arrays, all of them u1."""

_WIDTHS: Final = (8, 4, 2, 1)

_Bytes: TypeAlias = NDArray[np.uint8]


def pack_histogram(histogram: Histograms) -> tuple[dict[str, _Bytes], bytes]:
    """Return the five arrays by name, and the counts. Raises UsageError for too many rows."""
    rows = len(histogram)
    if rows > HISTOGRAM_ROWS_LIMIT:
        raise UsageError(
            f"a step of {rows} rows cannot have a histogram, at most {HISTOGRAM_ROWS_LIMIT} rows may: "
            'observe fewer layers (layers=…), or leave it out (detail="core")'
        )
    is_used = (histogram != 0).reshape(rows, 2, BINADES)
    has_any = is_used.any(axis=2)
    first = np.where(has_any, is_used.argmax(axis=2), 0)
    length = np.where(has_any, BINADES - is_used[:, :, ::-1].argmax(axis=2) - first, 0)
    width = _widths(histogram.max(axis=1, initial=0))
    flat = histogram.reshape(-1)
    counts = [_little_endian(flat[places], size) for size, places in _sections(first, length, width)]
    arrays = {name: column.astype(np.uint8) for name, column in zip(_FIRST, first.T, strict=True)}
    arrays |= {name: column.astype(np.uint8) for name, column in zip(_BINS, length.T, strict=True)}
    return arrays | {_WIDTH: width}, b"".join(counts)


def unpack_histogram(arrays: Mapping[str, NDArray[np.generic]], rows: int, counts: bytes) -> Histograms:
    """Return the histogram of `rows` rows. Raises ProtocolError where arrays and counts do not fit."""
    if not counts and not any(array.any() for array in arrays.values()):
        return np.broadcast_to(np.zeros(1, np.uint64), (rows, HISTOGRAM_BINS))
    if rows > HISTOGRAM_ROWS_LIMIT:
        raise ProtocolError(f"a histogram of {rows} rows, at most {HISTOGRAM_ROWS_LIMIT} may be")
    first, length = (
        np.stack([arrays[name] for name in names], axis=1).astype(np.int64) for names in (_FIRST, _BINS)
    )
    width = arrays[_WIDTH].astype(np.int64)
    _check(first, length, width)
    named_bytes = int(length.sum(axis=1) @ width)
    if named_bytes != len(counts):
        raise ProtocolError(f"expected {named_bytes} bytes of counts, got {len(counts)}")
    flat = np.zeros(rows * HISTOGRAM_BINS, np.uint64)
    offset = 0
    for size, places in _sections(first, length, width):
        flat[places] = np.frombuffer(counts, np.dtype(f"<u{size}"), len(places), offset)
        offset += len(places) * size
    return flat.reshape(rows, HISTOGRAM_BINS)


def _widths(greatest: NDArray[np.uint64]) -> _Bytes:
    """Return the bytes that each number takes; 0 for 0."""
    takes = np.array([0, 1, 2, 4, 8], np.uint8)
    return takes[np.searchsorted(np.array([0, 0xFF, 0xFFFF, 0xFFFFFFFF], np.uint64), greatest)]


def _sections(
    first: NDArray[Any], length: NDArray[Any], width: NDArray[Any]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield for each width, the widest first, the places of its counts in the flat histogram."""
    start = np.arange(first.size) * BINADES + first.reshape(-1)
    many = length.reshape(-1)
    before = np.cumsum(many) - many
    places = np.repeat(start - before, many) + np.arange(many.sum())
    of_count = np.repeat(width, length.sum(axis=1))
    for size in _WIDTHS:
        chosen = places[of_count == size]
        if len(chosen):
            yield size, chosen


def _little_endian(counts: NDArray[np.uint64], size: int) -> bytes:
    narrow = counts.astype(f"u{size}")
    return (narrow.byteswap() if sys.byteorder == "big" else narrow).tobytes()


def _check(first: NDArray[np.int64], length: NDArray[np.int64], width: NDArray[Any]) -> None:
    if (first + length > BINADES).any():
        raise ProtocolError(f"a histogram has a stretch beyond bin {BINADES - 1} of its sign")
    if not np.isin(width, (0, *_WIDTHS)).all():
        raise ProtocolError("a histogram has counts of a width that is none of 1, 2, 4 and 8 bytes")
    if ((width == 0) != (length == 0).all(axis=1)).any():
        raise ProtocolError("a histogram has a row with bins and no width, or a width and no bins")
