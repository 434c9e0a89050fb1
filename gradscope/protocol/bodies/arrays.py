"""Reads the arrays of a message body with bounds checks, and fixes their byte order."""

import sys
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import ProtocolError
from gradscope.protocol.stream import Memory, Step, Times

__all__ = ["little_endian", "read_arrays"]


def read_arrays(
    message: Step | Memory | Times, dtype_of: Callable[[str, str], np.dtype[np.generic]]
) -> tuple[dict[str, NDArray[np.generic]], int]:
    """Return the arrays named in `columns`, as views of the body, and the offset where they end.

    `dtype_of(name, code)` returns the dtype of an array, or raises ProtocolError for an invalid dtype.
    Raises ProtocolError if a name occurs twice or the body is too short.
    """
    arrays: dict[str, NDArray[np.generic]] = {}
    offset = 0
    for name, code in message.columns:
        dtype = dtype_of(name, code)
        end = offset + message.rows * dtype.itemsize
        if name in arrays:
            raise ProtocolError(f"step {message.step} names the column {name!r} twice")
        if end > len(message.body):
            raise ProtocolError(
                f"step {message.step}: column {name!r} needs bytes {offset} to {end}, "
                f"the body has {len(message.body)}"
            )
        arrays[name] = np.frombuffer(message.body, dtype, message.rows, offset)
        offset = end
    return arrays, offset


def little_endian(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """Return the array as a contiguous array in little-endian byte order."""
    return np.ascontiguousarray(array.byteswap() if sys.byteorder == "big" else array)
