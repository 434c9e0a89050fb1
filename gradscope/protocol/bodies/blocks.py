"""Packs the columns of a step into a message body, and unpacks them.

The body contains the arrays one after the other. Each has `rows` little-endian numbers with the dtype
that the head states. The widest dtypes come first, so that all arrays are aligned. Each array uses the
narrowest dtype that represents its numbers exactly. A column of zeros is not sent; its name is in
`zero`. The digests, if measured, are the array `digest`. The counts of the histogram (`histograms`),
if measured, follow the arrays.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import COLUMNS, Block, Histograms
from gradscope.errors import ProtocolError, UsageError
from gradscope.protocol.bodies.arrays import join_arrays, read_arrays
from gradscope.protocol.bodies.histograms import (
    HISTOGRAM_ARRAYS,
    PackBins,
    pack_histogram,
    unpack_histogram,
)
from gradscope.protocol.stream import Step

__all__ = ["pack_block", "unpack_block"]

_ALWAYS_SENT = ("layer", "kind")
_FLOAT_COLUMNS = frozenset(column.name for column in COLUMNS if not column.is_count)
_WIRE_TYPES: dict[str, tuple[str, ...]] = {
    "layer": ("u1", "u2", "u4"),
    "kind": ("u1", "u2", "u4"),
    "flags": ("u1",),
    "digest": ("u8",),
    **{c.name: ("u1", "u2", "u4", "u8") if c.is_count else ("f4", "f8") for c in COLUMNS},
    **dict.fromkeys(HISTOGRAM_ARRAYS, ("u1",)),
}
_UNSIGNED = ("u1",) * 9 + ("u2",) * 8 + ("u4",) * 16 + ("u8",) * 32
"""The narrowest dtype of an unsigned integer, by its length in bits."""


def pack_block(
    block: Block, pack_bins: PackBins | None = None
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...], bytes]:
    """Return `columns`, `zero` and `body` of a step. `pack_bins` packs the histogram.

    Raises UsageError if a count is negative or not an integer, or if too many rows have a histogram.
    """
    bins, counts = ({}, []) if block.histogram is None else pack_histogram(block.histogram, pack_bins)
    with np.errstate(over="ignore", invalid="ignore"):  # numbers that do not fit are detected below
        named = [
            (name, _narrowest_dtype(name, array)) for name, array in (*_arrays(block), *bins.items())
        ]
    columns, zero, arrays = join_arrays(named)
    return columns, zero, b"".join([*arrays, *counts])  # type: ignore[list-item]  # buffers, to mypy from 3.12 on


def unpack_block(step: Step) -> Block:
    """Return the block of a step. Raises ProtocolError if body and head do not match."""
    arrays, end = read_arrays(step, lambda name: _WIRE_TYPES.get(name, ()))
    return _block(step, arrays, end)


def _arrays(block: Block) -> Iterator[tuple[str, NDArray[np.generic]]]:
    yield "layer", block.layer
    yield "kind", block.kind
    yield "flags", block.flags
    yield from block.values.items()
    if block.digest is not None:
        yield "digest", block.digest


def _narrowest_dtype(name: str, array: NDArray[np.generic]) -> NDArray[np.generic] | None:
    """Return an array in the narrowest dtype that is exact; None if all values are zero.

    With few rows, the cost is the overhead of the NumPy calls: `argmax` takes a third of the time of
        `max`.
    """
    if name in _FLOAT_COLUMNS:
        if not (len(array) and array[0]) and not array.any():  # the first number decides in most cases
            return None
        wide = array.astype(np.float64, copy=False)
        return _as_float32(wide) if name in ("min", "max") else wide
    if name == "digest":
        return array if array.any() else None
    whole = _as_unsigned(name, array)
    greatest = int(whole[whole.argmax()]) if len(whole) else 0
    if not greatest and name not in _ALWAYS_SENT:
        return None
    return whole.astype(_UNSIGNED[greatest.bit_length()], copy=False)


def _as_float32(wide: NDArray[np.float64]) -> NDArray[np.generic]:
    """Return the values as float32 if the conversion is exact, else unchanged."""
    narrow = wide.astype(np.float32)
    differs = narrow != wide  # as NaN always does
    if differs[differs.argmax()] and not np.isnan(wide[differs]).all():
        return wide
    return narrow


def _as_unsigned(name: str, array: NDArray[np.generic]) -> NDArray[np.unsignedinteger]:
    if array.dtype.kind == "u":
        return array  # type: ignore[return-value]  # the line above narrows it
    whole = array.astype(np.uint64)
    if not np.array_equal(whole.astype(np.float64), array.astype(np.float64)):
        raise UsageError(f"expected the column {name!r} to hold integers of at least 0")
    return whole


def _block(step: Step, arrays: dict[str, NDArray[np.generic]], end: int) -> Block:
    sent = {name for name, _ in step.columns}
    missing = [name for name in _ALWAYS_SENT if name not in sent]
    if missing:
        raise ProtocolError(f"step {step.step} lacks the columns {missing}")
    if "flags" not in arrays:
        raise ProtocolError(f"step {step.step} lacks the column 'flags'")
    kind = arrays.pop("kind").astype(np.uint32)
    if step.rows and int(kind.max()) >= len(step.kinds):
        raise ProtocolError(f"step {step.step} has a row of kind {kind.max()}, of {len(step.kinds)}")
    layer = arrays.pop("layer").astype(np.uint32)
    flags = arrays.pop("flags").astype(np.uint8)
    digest = arrays.pop("digest").astype(np.uint64) if "digest" in arrays else None
    return Block(step.kinds, layer, kind, flags, arrays, _histogram(step, arrays, end), digest)


def _histogram(step: Step, arrays: dict[str, NDArray[np.generic]], end: int) -> Histograms | None:
    """Unpack the histogram and remove its arrays from `arrays`. `end` is the offset where the arrays end."""
    bins = {name: arrays.pop(name) for name in HISTOGRAM_ARRAYS if name in arrays}
    if not bins and end != len(step.body):
        raise ProtocolError(f"step {step.step}: expected {end} bytes, the body has {len(step.body)}")
    if not bins:
        return None
    if len(bins) != len(HISTOGRAM_ARRAYS):
        lacking = [name for name in HISTOGRAM_ARRAYS if name not in bins]
        raise ProtocolError(f"step {step.step} lacks the arrays {lacking} of its histogram")
    return unpack_histogram(bins, step.rows, step.body[end:])
