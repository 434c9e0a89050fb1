"""Packs observed steps into a chunk: column by column, so that one column is read without the others.

The numbers of one column are put together over all steps of the chunk, in one matrix for each dtype and number of
rows. Each step is XORed with the step before it, so that equal bits become zero. The matrix is transposed, so
that the numbers of one row come together; then the first bytes of all numbers come first, then the second bytes,
and so on. zstd compresses the result. Every step is decoded bit for bit.
"""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from gradscope.errors import ProtocolError
from gradscope.protocol import BODY_LIMIT_BYTES, Step, decode

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

__all__ = [
    "Entry",
    "PackedColumn",
    "decode_heads",
    "encode_columns",
    "encode_heads",
    "join_bodies",
    "split_body",
    "unpack_bytes",
    "unpack_column",
]

REST: Final = ""
"""The name of the column with the bytes that follow the arrays of each body: the counts of the histograms."""

_OPTIONS: Final[dict[int, int]] = {
    zstd.CompressionParameter.compression_level: 1,  # level 3 saves 3 % and takes twice the time
    zstd.CompressionParameter.checksum_flag: 1,
}
_DTYPES: Final = ("u1", "u2", "u4", "u8", "f4", "f8")
_HEADS_LIMIT_BYTES: Final = 2**28
_BLOBS: Final = msgspec.msgpack.Decoder(list[bytes])

Key: TypeAlias = tuple[str, str, int]
"""Name, dtype and number of rows of a column."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One recorded step of one rank: its decoded head, and the bytes of head and body."""

    step: Step
    head: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class PackedColumn:
    """One column of a chunk. `data` has one row of numbers for each entry that has this column."""

    name: str
    dtype: str
    rows: int
    data: bytes


def encode_heads(entries: Sequence[Entry]) -> bytes:
    """Return the heads of the entries, compressed."""
    return _pack_bytes(msgspec.msgpack.encode([entry.head for entry in entries]))


def decode_heads(data: bytes) -> tuple[list[bytes], list[Step]]:
    """Return the heads of a chunk, as bytes and decoded. Raises ProtocolError if they are damaged."""
    heads = _blobs(data)
    steps = [decode([head]) for head in heads]
    if not all(isinstance(step, Step) for step in steps):
        raise ProtocolError("a chunk has a head that is not of a step")
    return heads, steps  # type: ignore[return-value]  # checked above


def encode_columns(entries: Sequence[Entry]) -> list[PackedColumn]:
    """Return the columns of the entries. Their order is that of the entries, best sorted by rank and step."""
    matrices: dict[Key, list[NDArray[np.generic]]] = {}
    rests = []
    for entry in entries:
        arrays, rest = split_body(entry.step, entry.body)
        rests.append(rest)
        for (name, dtype), array in zip(entry.step.columns, arrays, strict=True):
            matrices.setdefault((name, dtype, entry.step.rows), []).append(array)
    columns = [PackedColumn(*key, _pack_matrix(np.stack(arrays))) for key, arrays in matrices.items()]
    if any(rests):
        columns.append(PackedColumn(REST, "", 0, _pack_bytes(msgspec.msgpack.encode(rests))))
    return columns


def split_body(step: Step, body: bytes) -> tuple[list[NDArray[np.generic]], bytes]:
    """Return the arrays of a body in the order of `columns`, and what follows them.

    Raises ProtocolError if the body does not have what the head says.
    """
    arrays: list[NDArray[np.generic]] = []
    offset = 0
    for name, code in step.columns:
        dtype = _dtype(code)
        end = offset + step.rows * dtype.itemsize
        if end > len(body):
            raise ProtocolError(
                f"step {step.step}: the column {name!r} ends at byte {end} of {len(body)}"
            )
        arrays.append(np.frombuffer(body[offset:end], dtype) if step.rows else np.empty(0, dtype))
        offset = end
    return arrays, body[offset:]


def unpack_column(column: PackedColumn, entries: int, rows: slice = slice(None)) -> NDArray[np.generic]:
    """Return some rows of a column, by default all, shape (entries, rows). Raises ProtocolError if it is damaged."""
    dtype = _dtype(column.dtype)
    size_bytes = entries * column.rows * dtype.itemsize
    planes = unpack_bytes(column.data, size_bytes)
    if len(planes) != size_bytes:
        raise ProtocolError(
            f"expected {size_bytes} bytes in the column {column.name!r}, got {len(planes)}"
        )
    if not size_bytes:
        return np.empty((entries, column.rows), dtype)
    wanted = np.frombuffer(planes, np.uint8).reshape(dtype.itemsize, column.rows, entries)[:, rows]
    if not wanted[:, :, 1:].any():  # all entries are equal, as those of layers and kinds mostly are
        first = np.ascontiguousarray(wanted[:, :, 0].T).reshape(-1).view(dtype)
        return np.broadcast_to(first, (entries, len(first)))
    numbers = np.ascontiguousarray(wanted.reshape(dtype.itemsize, -1).T)
    bits = np.ascontiguousarray(numbers.view(f"<u{dtype.itemsize}").reshape(-1, entries).T)
    return np.bitwise_xor.accumulate(bits, axis=0).view(dtype)


def join_bodies(steps: Sequence[Step], columns: Iterable[PackedColumn]) -> list[bytes]:
    """Return the bodies of the steps of a chunk. Raises ProtocolError if a column is damaged or missing."""
    having: dict[Key, list[int]] = {}
    for place, step in enumerate(steps):
        for name, dtype in step.columns:
            having.setdefault((name, dtype, step.rows), []).append(place)
    pieces: dict[tuple[int, str], bytes] = {}
    rests = [b""] * len(steps)
    for column in columns:
        if column.name == REST:
            rests = _blobs(column.data)
            continue
        places = having.get((column.name, column.dtype, column.rows), [])
        matrix = unpack_column(column, len(places))
        pieces.update(
            ((place, column.name), row.tobytes()) for place, row in zip(places, matrix, strict=True)
        )
    if len(rests) != len(steps):
        raise ProtocolError(f"expected {len(steps)} bodies in a chunk, got {len(rests)}")
    try:
        return [
            b"".join(pieces[place, name] for name, _ in step.columns) + rests[place]
            for place, step in enumerate(steps)
        ]
    except KeyError as error:
        raise ProtocolError(f"a chunk lacks the column {error.args[0][1]!r}") from error


def unpack_bytes(data: bytes, limit_bytes: int) -> bytes:
    """Decompress. Raises ProtocolError if the data is damaged, or larger than the limit."""
    decompressor = zstd.ZstdDecompressor()
    try:
        plain = decompressor.decompress(data, max_length=limit_bytes + 1)
    except zstd.ZstdError as error:
        raise ProtocolError(f"a chunk is damaged: {error}") from error
    if len(plain) > limit_bytes or not decompressor.eof:
        raise ProtocolError(f"a chunk is damaged: expected at most {limit_bytes} bytes")
    return plain


def _dtype(code: str) -> np.dtype[Any]:
    if code not in _DTYPES:
        raise ProtocolError(f"expected a column of one of the types {_DTYPES}, got {code!r}")
    return np.dtype("<" + code)


def _pack_matrix(matrix: NDArray[Any]) -> bytes:
    size = matrix.dtype.itemsize
    bits = matrix.view(f"<u{size}")
    changed = bits.copy()
    changed[1:] ^= bits[:-1]
    planes = np.ascontiguousarray(changed.T).view(np.uint8).reshape(-1, size).T
    return _pack_bytes(planes.tobytes())


def _pack_bytes(plain: bytes) -> bytes:
    return zstd.compress(plain, options=_OPTIONS)


def _blobs(data: bytes) -> list[bytes]:
    try:
        return _BLOBS.decode(unpack_bytes(data, max(_HEADS_LIMIT_BYTES, BODY_LIMIT_BYTES)))
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"a chunk is damaged: {error}") from error
