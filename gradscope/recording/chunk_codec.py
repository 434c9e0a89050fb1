"""Packs observed steps into a chunk: column by column, so that one column is read without the others.

The numbers of one column are put together over all steps of the chunk, in one matrix for each dtype and number of
rows. Each step is XORed with the step before it, so that equal bits become zero. The matrix is transposed, so
that the numbers of one row come together; then the first bytes of all numbers come first, then the second bytes,
and so on. zstd compresses the result. Every step is decoded bit for bit, unless the statistics are rounded:
`rounded_columns.py` packs those.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from gradscope.errors import ProtocolError
from gradscope.protocol import BODY_LIMIT_BYTES, Step, decode
from gradscope.recording.compression import pack_bytes, unpack_bytes
from gradscope.recording.rounded_columns import Form, pack_rounded, unpack_rounded
from gradscope.recording.rounding import FLOATS, Numbers

__all__ = [
    "ROUNDED",
    "Entry",
    "PackedColumn",
    "decode_heads",
    "encode_columns",
    "encode_heads",
    "form_of",
    "join_bodies",
    "places_by_form",
    "split_body",
    "unpack_column",
    "unpack_form",
]

REST: Final = ""
"""The name of the column with the bytes that follow the arrays of each body: the counts of the histograms."""

ROUNDED: Final = "rounded"
"""The name of the column that says which steps are rounded; the parts of their columns have longer names."""

_DTYPES: Final = ("u1", "u2", "u4", "u8", "f4", "f8")
_HEADS_LIMIT_BYTES: Final = 2**28
_BLOBS: Final = msgspec.msgpack.Decoder(list[bytes])
_PLACES: Final = msgspec.msgpack.Decoder(list[list[int]])

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
    return pack_bytes(msgspec.msgpack.encode([entry.head for entry in entries]))


def decode_heads(data: bytes) -> tuple[list[bytes], list[Step]]:
    """Return the heads of a chunk, as bytes and decoded. Raises ProtocolError if they are damaged."""
    heads = _blobs(data)
    steps = [decode([head]) for head in heads]
    if not all(isinstance(step, Step) for step in steps):
        raise ProtocolError("a chunk has a head that is not of a step")
    return heads, steps  # type: ignore[return-value]  # checked above


def encode_columns(entries: Sequence[Entry], *, is_rounded: bool = False) -> list[PackedColumn]:
    """Return the columns of the entries. Their order is that of the entries, best sorted by rank and step.

    is_rounded: whether the statistics are rounded; those of steps with digests are not.
    """
    bodies = [split_body(entry.step, entry.body) for entry in entries]
    forms: dict[tuple[object, ...], tuple[Form, list[int]]] = {}
    matrices: dict[Key, list[NDArray[np.generic]]] = {}
    for place, (entry, (arrays, _)) in enumerate(zip(entries, bodies, strict=True)):
        form = _form_to_round(entry.step, arrays) if is_rounded else None
        if form is not None:
            key = form, frozenset(name for name, _ in entry.step.columns)
            forms.setdefault(key, (form, []))[1].append(place)
        for (name, dtype), array in zip(entry.step.columns, arrays, strict=True):
            if form is None or name not in FLOATS:
                matrices.setdefault((name, dtype, entry.step.rows), []).append(array)
    columns = [PackedColumn(*key, _pack_matrix(np.stack(arrays))) for key, arrays in matrices.items()]
    rests = [rest for _, rest in bodies]
    if any(rests):
        columns.append(PackedColumn(REST, "", 0, pack_bytes(msgspec.msgpack.encode(rests))))
    for number, (form, places) in enumerate(forms.values()):
        steps = [(entries[place].step, bodies[place][0]) for place in places]
        packed = pack_rounded(form, _values(steps))
        columns += [PackedColumn(_part(number, name), "", 0, data) for name, data in packed.items()]
    if forms:
        all_places = msgspec.msgpack.encode([places for _, places in forms.values()])
        columns.append(PackedColumn(ROUNDED, "", 0, pack_bytes(all_places)))
    return columns


def _form_to_round(step: Step, arrays: Sequence[NDArray[np.generic]]) -> Form | None:
    """Return which rows a step has; None if it is not to be rounded."""
    found = dict(zip((name for name, _ in step.columns), arrays, strict=True))
    if "digest" in found or not step.rows or not {"count", "layer", "kind"} <= found.keys():
        return None
    return form_of(step, found["layer"], found["kind"]) if {*found, *step.zero} >= {*FLOATS} else None


def form_of(step: Step, layer: Numbers, kind: Numbers) -> Form:
    """Return which rows a step has."""
    return Form(layer.astype(np.uint32).tobytes(), kind.astype(np.uint32).tobytes(), step.kinds)


def _part(number: int, name: str) -> str:
    return f"{ROUNDED}.{number}.{name}"


def _values(steps: Sequence[tuple[Step, Sequence[NDArray[np.generic]]]]) -> dict[str, Numbers]:
    """Return all columns of steps that have columns of the same names, shape (steps, rows)."""
    first = steps[0][0]
    named = [
        dict(zip((name for name, _ in step.columns), arrays, strict=True)) for step, arrays in steps
    ]
    found: dict[str, Numbers] = {name: np.zeros((len(steps), first.rows)) for name in first.zero}
    return found | {name: np.stack([arrays[name] for arrays in named]) for name in named[0]}


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


def places_by_form(rounded: PackedColumn | None, entries: int) -> list[list[int]]:
    """Return the places of the rounded steps of a chunk, for each form. rounded: the column of the name ROUNDED."""
    if rounded is None:
        return []
    try:
        forms = _PLACES.decode(unpack_bytes(rounded.data, _HEADS_LIMIT_BYTES))
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"a chunk is damaged: {error}") from error
    if not all(places and min(places) >= 0 and max(places) < entries for places in forms):
        raise ProtocolError(f"a chunk is damaged: it has {entries} steps, but others are rounded")
    return forms


def unpack_form(
    number: int,
    names: Sequence[str],
    form: Form,
    count: Numbers,
    read: Callable[[str], PackedColumn],
    row: int | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Return rounded columns of FLOATS as `unpack_rounded`. read: returns a column of the chunk by its name."""
    return unpack_rounded(form, names, count, lambda part: read(_part(number, part)).data, row)


def join_bodies(steps: Sequence[Step], columns: Iterable[PackedColumn]) -> list[bytes]:
    """Return the bodies of the steps of a chunk. Raises ProtocolError if a column is damaged or missing."""
    columns = list(columns)
    others = {column.name: column for column in columns if not column.dtype}
    forms = places_by_form(others.get(ROUNDED), len(steps))
    rounded = {place for places in forms for place in places}
    having: dict[Key, list[int]] = {}
    for place, step in enumerate(steps):
        for name, dtype in step.columns:
            if place not in rounded or name not in FLOATS:
                having.setdefault((name, dtype, step.rows), []).append(place)
    pieces: dict[tuple[int, str], NDArray[np.generic]] = {}
    for column in columns:
        if column.dtype:
            places = having.get((column.name, column.dtype, column.rows), [])
            matrix = unpack_column(column, len(places))
            pieces.update(
                ((place, column.name), row) for place, row in zip(places, matrix, strict=True)
            )
    rests = _blobs(others[REST].data) if REST in others else [b""] * len(steps)
    if len(rests) != len(steps):
        raise ProtocolError(f"expected {len(steps)} bodies in a chunk, got {len(rests)}")
    try:
        for number, places in enumerate(forms):
            pieces.update(_rounded_pieces(steps, number, places, pieces, others))
        return [
            b"".join(pieces[place, name].tobytes() for name, _ in step.columns) + rests[place]
            for place, step in enumerate(steps)
        ]
    except (LookupError, ValueError) as error:
        raise ProtocolError(f"a chunk lacks a column or has one of another size: {error}") from error


def _rounded_pieces(
    steps: Sequence[Step],
    number: int,
    places: Sequence[int],
    pieces: Mapping[tuple[int, str], NDArray[np.generic]],
    columns: Mapping[str, PackedColumn],
) -> dict[tuple[int, str], NDArray[np.generic]]:
    first = steps[places[0]]
    form = form_of(first, pieces[places[0], "layer"], pieces[places[0], "kind"])
    count = np.stack([pieces[place, "count"] for place in places])
    found = unpack_form(number, FLOATS, form, count, columns.__getitem__)
    return {
        (place, name): found[name][number_of_step].astype(_dtype(dtype))
        for number_of_step, place in enumerate(places)
        for name, dtype in steps[place].columns
        if name in FLOATS
    }


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
    return pack_bytes(planes.tobytes())


def _blobs(data: bytes) -> list[bytes]:
    try:
        return _BLOBS.decode(unpack_bytes(data, max(_HEADS_LIMIT_BYTES, BODY_LIMIT_BYTES)))
    except msgspec.MsgspecError as error:
        raise ProtocolError(f"a chunk is damaged: {error}") from error
