"""Packs rounded statistics of the steps of a chunk, and unpacks them.

The integers of `rounding.py` are packed for the rows of one kind of tensor at a time. Each is predicted from its
neighbours: the step before, the row before, or both, whichever leaves the smallest differences. The differences of
one row come together, byte by byte, and zstd compresses them. The row of all parameters of a layer is the merged row of
its parameters; where it is exactly that, it is left out.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from gradscope.errors import ProtocolError
from gradscope.recording.compression import pack_bytes, unpack_bytes
from gradscope.recording.rounding import FLOATS, NEEDED, QUANTITIES, Ints, Numbers, codes_of, numbers_of

__all__ = ["Form", "pack_rounded", "unpack_rounded"]

_MERGE: Final[Mapping[str, Callable[..., Any]]] = {  # Any: ufuncs
    "sum": np.add, "sumsq": np.add, "min": np.minimum, "max": np.maximum,
}  # fmt: skip
_EXACT_ROW: Final = np.dtype([("place", "<u4"), *((name, "<f8") for name in FLOATS)])
_NUMBER_BYTES: Final = 4
_LIMIT_BYTES: Final = 2**28
_TRIED_ROWS: Final = 32

Rows: TypeAlias = NDArray[np.intp]


class _Group(msgspec.Struct, array_like=True, frozen=True):
    """The integers of the rows of one kind.

    first_bytes, next_bytes: the bytes of a difference in the first step, and in the others.
    """

    predictor: int
    first_bytes: int
    next_bytes: int
    data: bytes


class _Rest(msgspec.Struct, array_like=True, frozen=True):
    """What is not packed as integers: rows that are left out, and the numbers of rows that are kept as they are."""

    merged: list[int]
    exact: bytes


_GROUPS: Final = msgspec.msgpack.Decoder(list[_Group])
_REST: Final = msgspec.msgpack.Decoder(_Rest)


@dataclass(frozen=True, slots=True)
class Form:
    """Which rows some steps have: the layer and the kind of each row as uint32, and the names of the kinds."""

    layer: bytes
    kind: bytes
    kinds: tuple[str, ...]

    def parts(self) -> Mapping[int, Sequence[int]]:
        """Return the rows of the single parameters, by the row of all parameters of a layer and kind."""
        return _parts_of(self)

    def groups(self, merged: Sequence[int]) -> list[Rows]:
        """Return the rows of each kind, without those in `merged`."""
        kind = np.frombuffer(self.kind, np.uint32)
        is_left = np.ones(len(kind), bool)
        is_left[list(merged)] = False
        return [np.flatnonzero((kind == number) & is_left) for number in range(len(self.kinds))]


@functools.lru_cache(maxsize=8)
def _parts_of(form: Form) -> Mapping[int, Sequence[int]]:
    names = [kind.partition(".") for kind in form.kinds]
    numbers = {name: number for number, name in enumerate(form.kinds)}
    wholes = [
        numbers.get(whole) if dot and whole.startswith(("param", "update")) else None
        for whole, dot, _ in names
    ]
    layers, kinds = (np.frombuffer(each, np.uint32).tolist() for each in (form.layer, form.kind))
    rows = {each: row for row, each in enumerate(zip(layers, kinds, strict=True))}
    found: dict[int, list[int]] = {}
    for row, (layer, kind) in enumerate(zip(layers, kinds, strict=True)):
        whole = wholes[kind]
        if whole is not None and (layer, whole) in rows:
            found.setdefault(rows[layer, whole], []).append(row)
    return found


def pack_rounded(form: Form, values: Mapping[str, Numbers]) -> dict[str, bytes]:
    """Return the rounded columns of FLOATS as bytes by part. values: all columns by name, shape (steps, rows)."""
    merged = _merged_rows(form, values)
    codes, is_exact = codes_of(values)
    is_exact[:, merged] = False
    places = np.flatnonzero(is_exact)
    exact = np.zeros(len(places), _EXACT_ROW)
    exact["place"] = places
    for name in FLOATS:
        exact[name] = values[name].reshape(-1)[places]
    groups = form.groups(merged)
    packed = {
        quantity: msgspec.msgpack.encode(
            [_pack_group(np.ascontiguousarray(codes[quantity][:, rows].T)) for rows in groups]
        )
        for quantity in QUANTITIES
    }
    packed["rest"] = msgspec.msgpack.encode(_Rest(merged, exact.tobytes()))
    return {name: pack_bytes(plain) for name, plain in packed.items()}


def unpack_rounded(
    form: Form,
    names: Sequence[str],
    count: Numbers,
    read: Callable[[str], bytes],
    row: int | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Return columns of FLOATS by name, shape (steps, rows), or only one row, shape (steps, 1).

    count: the column of this name, shape (steps, rows).
    read: returns the bytes of a part by its name. Raises ProtocolError if they are damaged.
    """
    try:
        rest = _REST.decode(unpack_bytes(read("rest"), _LIMIT_BYTES))
        parts = {whole: form.parts()[whole] for whole in rest.merged}
        wanted = (
            np.arange(count.shape[1]) if row is None else np.array([row, *parts.get(row, ())], np.intp)
        )
        place_of = np.full(count.shape[1], -1, np.intp)
        place_of[wanted] = np.arange(len(wanted))
        count = count[:, wanted]
        groups = form.groups(rest.merged)
        needed = {quantity for name in names for quantity in NEEDED[name]}
        codes = {
            quantity: _unpack_groups(groups, place_of, count.shape, read(quantity))
            for quantity in needed
        }
        found = numbers_of(codes, count, names)
        exact = np.frombuffer(rest.exact, _EXACT_ROW)
        steps, rows = np.divmod(exact["place"].astype(np.intp), len(place_of))
        is_wanted = place_of[rows] >= 0
        merged = [
            (int(place_of[whole]), place_of[list(of_row)].tolist())
            for whole, of_row in parts.items()
            if place_of[whole] >= 0
        ]
        for name in names:
            found[name][steps[is_wanted], place_of[rows[is_wanted]]] = exact[name][is_wanted]
            for wholes, of_rows in _by_length(merged):
                found[name][:, wholes] = _merge(name, found[name], of_rows)
    except (msgspec.MsgspecError, ValueError, LookupError) as error:
        raise ProtocolError(f"a chunk is damaged: {error}") from error
    return {name: found[name] if row is None else found[name][:, :1] for name in names}


def _merged_rows(form: Form, values: Mapping[str, Numbers]) -> list[int]:
    """Return the rows that are, in all steps, exactly the merged rows of others."""
    merged: list[int] = []
    for rows, of_rows in _by_length(list(form.parts().items())):
        is_merged = np.ones(len(rows), bool)
        for name in FLOATS:
            is_merged &= (values[name][:, rows] == _merge(name, values[name], of_rows)).all(axis=0)
        merged += rows[is_merged].tolist()
    return merged


def _by_length(parts: Sequence[tuple[int, Sequence[int]]]) -> Iterator[tuple[Rows, Rows]]:
    """Yield rows and the rows of which they are merged, shapes (n,) and (n, k), for each number k of these."""
    for length in sorted({len(of_row) for _, of_row in parts}):
        alike = [(row, of_row) for row, of_row in parts if len(of_row) == length]
        yield (
            np.array([row for row, _ in alike], np.intp),
            np.array([of_row for _, of_row in alike], np.intp),
        )


def _merge(name: str, numbers: Numbers, of_rows: Rows) -> Numbers:
    """Return the merged rows, added in the order in which an observed step adds them."""
    merged = numbers[:, of_rows[:, 0]]
    for rows in of_rows[:, 1:].T:
        merged = _MERGE[name](merged, numbers[:, rows])
    return merged


def _pack_group(ints: Ints) -> _Group:
    """Pack integers of the shape (rows, steps)."""
    first = np.diff(ints[:, 0], prepend=0)
    candidates = [np.diff(ints, axis=1), np.diff(ints, axis=0, prepend=0)[:, 1:], ints[:, 1:]]
    candidates.append(np.diff(candidates[0], axis=0, prepend=0))
    costs = [_cost(each) for each in candidates]
    predictor = costs.index(min(costs))
    first_bytes, first_planes = _planes(first)
    size, planes = _planes(candidates[predictor])
    return _Group(predictor, first_bytes, size, pack_bytes(first_planes + planes))


def _cost(differences: Ints) -> float:
    """Return about how many bits some of the differences have."""
    some = np.abs(differences[:: max(1, len(differences) // _TRIED_ROWS)])
    return float(np.log2(1.0 + some).mean()) if some.size else 0.0


def _unpack_groups(groups: Sequence[Rows], place_of: Rows, shape: tuple[int, ...], data: bytes) -> Ints:
    """Return the integers of some rows, shape (steps, rows). place_of: the place of each row, or -1."""
    found = np.zeros(shape, np.int64)
    packed = _GROUPS.decode(unpack_bytes(data, _LIMIT_BYTES))
    for rows, group in zip(groups, packed, strict=True):
        is_wanted = place_of[rows] >= 0
        if is_wanted.any():
            ints = _unpack_group(group, len(rows), shape[0])
            found[:, place_of[rows[is_wanted]]] = ints[is_wanted].T
    return found


def _unpack_group(group: _Group, rows: int, steps: int) -> Ints:
    if not (0 <= group.first_bytes <= _NUMBER_BYTES and 0 <= group.next_bytes <= _NUMBER_BYTES):
        raise ProtocolError("a chunk is damaged: a number has too many bytes")
    split = rows * group.first_bytes
    size = split + rows * (steps - 1) * group.next_bytes
    plain = unpack_bytes(group.data, size)
    if len(plain) != size:
        raise ProtocolError(f"a chunk is damaged: expected {size} bytes, got {len(plain)}")
    first = _from_planes(plain[:split], group.first_bytes, (rows,))
    others = _from_planes(plain[split:], group.next_bytes, (rows, steps - 1))
    first = np.cumsum(first)
    if group.predictor in (1, 3):
        others = np.cumsum(others, axis=0)
    ints = np.concatenate([first[:, None], others], axis=1)
    return np.cumsum(ints, axis=1) if group.predictor in (0, 3) else ints


def _planes(differences: Ints) -> tuple[int, bytes]:
    """Return the bytes of a number, and the numbers byte by byte. 0 bytes if all are zero."""
    folded = ((differences << 1) ^ (differences >> 63)).astype("<u4").reshape(-1)
    size = (int(folded.max(initial=0)).bit_length() + 7) // 8
    return size, folded.view(np.uint8).reshape(-1, _NUMBER_BYTES).T[:size].tobytes()


def _from_planes(plain: bytes, size: int, shape: tuple[int, ...]) -> Ints:
    folded = np.zeros((int(np.prod(shape)), _NUMBER_BYTES), np.uint8)
    folded[:, :size] = np.frombuffer(plain, np.uint8).reshape(size, -1).T if size else 0
    numbers = folded.view("<u4").reshape(shape).astype(np.int64)
    return (numbers >> 1) ^ -(numbers & 1)
