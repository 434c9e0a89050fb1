"""Packs the rows of `memory` and `times` into message bodies, and unpacks them.

A body contains the arrays that `columns` names, one after the other, each with `rows` little-endian
numbers of the stated dtype; the widest dtypes come first. Row i belongs to layer i of the manifest. A
column of zeros is not sent; its name is in `zero`. A column in neither list was not measured.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import MemoryRow, MemoryTable, TimeRow, TimesTable
from gradscope.errors import ProtocolError, UsageError
from gradscope.protocol.bodies.arrays import join_arrays, read_arrays
from gradscope.protocol.stream import Memory, Times

__all__ = [
    "MEMORY_COLUMNS",
    "TIMES_COLUMNS",
    "pack_memory",
    "pack_times",
    "unpack_memory",
    "unpack_times",
]

_WHOLE_TYPES: Final = ("u1", "u2", "u4", "u8")
_DTYPES: Final = dict.fromkeys(("forward", "backward"), ("f4", "f8"))
_ONLY_WHERE_CALLED: Final = ("entry", "exit", "peak")
MEMORY_COLUMNS: Final = ("saved", "param", "grad", "optimizer", "buffer", *_ONLY_WHERE_CALLED)
"""In bytes. In the last three columns, 0 means that the layer was not called."""

TIMES_COLUMNS: Final = ("forward", "backward", "calls")
"""Units: seconds, seconds, a count."""

ROWS_LIMIT: Final = 100_000
"""The maximum number of rows if there is no array, because all columns are zero or not measured."""

_Packed: TypeAlias = tuple[tuple[tuple[str, str], ...], tuple[str, ...], bytes]


def pack_memory(rows: Mapping[int, MemoryRow], count: int) -> _Packed:
    """Return `columns`, `zero` and `body` for the rows of `count` layers."""
    named = {
        name: [getattr(rows.get(i), f"{name}_bytes", None) for i in range(count)]
        for name in MEMORY_COLUMNS
    }
    for name in _ONLY_WHERE_CALLED:
        if any(named[name]):
            named[name] = [value or 0 for value in named[name]]
    return _pack_columns(named)


def pack_times(rows: Mapping[int, TimeRow], count: int) -> _Packed:
    """Return `columns`, `zero` and `body` for the rows of `count` layers."""
    names = ("forward_s", "backward_s", "calls")
    taken = zip(TIMES_COLUMNS, names, strict=True)
    return _pack_columns(
        {name: [getattr(rows.get(i), field, None) for i in range(count)] for name, field in taken}
    )


def unpack_memory(message: Memory, layers: Sequence[str]) -> MemoryTable:
    """Return the table of a message. Raises ProtocolError if body and head do not match."""
    columns = _unpack(message, MEMORY_COLUMNS)
    return MemoryTable(
        message.step,
        layers,
        {i: _memory_row(columns, i) for i in range(message.rows)},
        balance=message.balance,
        machine=message.machine,
        notes=message.notes,
    )


def unpack_times(message: Times, layers: Sequence[str]) -> TimesTable:
    """Return the table of a message. Raises ProtocolError if body and head do not match."""
    columns = _unpack(message, TIMES_COLUMNS)
    rows = {
        i: TimeRow(
            forward_s=_seconds(columns, "forward", i),
            backward_s=_seconds(columns, "backward", i),
            calls=_integer_or_none(columns, "calls", i),
        )
        for i in range(message.rows)
    }
    return TimesTable(
        message.step,
        layers,
        rows,
        phases_s=message.phases_s,
        clock=message.clock,
        is_observed=message.is_observed,
        notes=message.notes,
    )


def _pack_columns(named: Mapping[str, Sequence[float | None]]) -> _Packed:
    columns, zero, arrays = join_arrays(
        [
            (name, _narrowest_dtype(name, values) if any(values) else None)
            for name, values in named.items()
            if None not in values
        ]
    )
    return columns, zero, b"".join(array.tobytes() for array in arrays)


def _narrowest_dtype(name: str, values: Sequence[float | None]) -> NDArray[np.generic]:
    if name in _DTYPES:
        return np.array(values, np.float32)
    whole = np.array(values, np.int64)
    if whole.min() < 0:
        raise UsageError(f"the column {name!r} counts bytes or calls, expected integers of at least 0")
    return whole.astype(np.min_scalar_type(int(whole.max())))


def _unpack(message: Memory | Times, known: Sequence[str]) -> dict[str, NDArray[np.generic]]:
    arrays, end = read_arrays(
        message, lambda name: _DTYPES.get(name, _WHOLE_TYPES) if name in known else ()
    )
    if end != len(message.body):
        raise ProtocolError(
            f"step {message.step}: expected {end} bytes, the body has {len(message.body)}"
        )
    if not end and message.rows > ROWS_LIMIT:
        raise ProtocolError(
            f"step {message.step} claims {message.rows} rows, the limit is {ROWS_LIMIT}"
        )
    return arrays


def _memory_row(columns: Mapping[str, NDArray[Any]], i: int) -> MemoryRow:
    values = {f"{name}_bytes": _integer_or_none(columns, name, i) for name in MEMORY_COLUMNS}
    for name in _ONLY_WHERE_CALLED:
        values[f"{name}_bytes"] = values[f"{name}_bytes"] or None
    return MemoryRow(**values)  # type: ignore[arg-type]  # bytes by the names of the fields


def _integer_or_none(columns: Mapping[str, NDArray[Any]], name: str, i: int) -> int | None:
    return int(columns[name][i]) if name in columns else None


def _seconds(columns: Mapping[str, NDArray[Any]], name: str, i: int) -> float | None:
    return float(columns[name][i]) if name in columns else None
