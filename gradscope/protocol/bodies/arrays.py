"""Reads the arrays of a message body with bounds checks, and fixes their byte order."""

import sys
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import ProtocolError
from gradscope.protocol.stream import Memory, Step, Times

__all__ = ["join_arrays", "read_arrays"]


def read_arrays(
    message: Step | Memory | Times, dtypes_of: Callable[[str], tuple[str, ...]]
) -> tuple[dict[str, NDArray[np.generic]], int]:
    """Return the arrays named in `columns`, as views of the body, and the offset where they end.

    Adds the arrays named in `zero`, each as a broadcast view of one zero. `dtypes_of(name)` returns the
    dtypes that an array may have, the widest last; none for an unknown name. Raises ProtocolError if a
    name is unknown or occurs twice, or if a dtype is not allowed or the body is too short.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    offset = 0
    for name, code in (*message.columns, *((zero, "") for zero in message.zero)):
        allowed = dtypes_of(name)
        if not allowed:
            raise ProtocolError(f"unknown column {name!r}")
        if code and code not in allowed:
            raise ProtocolError(
                f"column {name!r} cannot have the type {code!r}, expected one of {allowed}"
            )
        dtype = np.dtype("<" + (code or allowed[-1]))
        end = offset + message.rows * dtype.itemsize
        if name in arrays:
            raise ProtocolError(f"step {message.step} names the column {name!r} twice")
        if not code:
            arrays[name] = np.broadcast_to(np.zeros(1, dtype), message.rows)
            continue
        if end > len(message.body):
            raise ProtocolError(
                f"step {message.step}: column {name!r} needs bytes {offset} to {end}, "
                f"the body has {len(message.body)}"
            )
        arrays[name] = np.frombuffer(message.body, dtype, message.rows, offset)
        offset = end
    return arrays, offset


def join_arrays(
    named: Sequence[tuple[str, NDArray[np.generic] | None]],
) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...], list[NDArray[np.generic]]]:
    """Return `columns`, `zero` and the arrays of a body, the widest first. None: an array of zeros."""
    arrays = [(name, array) for name, array in named if array is not None]
    arrays.sort(key=lambda item: -item[1].itemsize)
    columns = tuple((name, array.dtype.str[1:]) for name, array in arrays)
    zero = tuple(name for name, array in named if array is None)
    return columns, zero, [_little_endian(array) for _, array in arrays]


def _little_endian(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the array as a contiguous array in little-endian byte order."""
    return np.ascontiguousarray(array.byteswap() if sys.byteorder == "big" else array)
