"""Captured tensors as NumPy arrays: waiting for them, statistics by channel, and saving to a file."""

import math
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import LinkError, ProtocolError, UsageError
from gradscope.protocol import Captured

__all__ = ["CapturedArray", "Channels", "Incoming", "array_of"]

_DTYPES: Final = {
    "float16": "<f2",
    "float32": "<f4",
    "float64": "<f8",
    "complex64": "<c8",
    "complex128": "<c16",
}


@dataclass(frozen=True, slots=True)
class Channels:
    """Statistics by channel, with one value for each channel. `axis` is the channel dimension of the array.

    `mean` and `std` of a channel with nonfinite elements are not finite.
    """

    axis: int
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    absmax: NDArray[np.float64]
    zero_fraction: NDArray[np.float64]

    @property
    def dead(self) -> int:
        """The number of channels whose elements are all zero."""
        return int((self.zero_fraction == 1.0).sum())


@dataclass(frozen=True, slots=True)
class CapturedArray:
    """One captured tensor. `dtype` is its dtype in the training; for bfloat16, `array` is float32.

    `full_shape` is the shape of the whole tensor. `note` says if only a part of it was sent.
    """

    step: int
    layer: str
    what: str
    name: str
    array: NDArray[Any]  # of any number type
    dtype: str
    full_shape: tuple[int, ...]
    note: str = ""

    def channels(self, axis: int | None = None) -> Channels:
        """Return statistics by channel. Default axis: dimension 1 of images, the last one of other tensors.

        Raises UsageError if the array does not have this axis.
        """
        values = np.atleast_1d(np.abs(self.array) if np.iscomplexobj(self.array) else self.array)
        if axis is None:
            axis = 1 if values.ndim in (4, 5) and self.what != "param_grad" else values.ndim - 1
            axis = 0 if self.what == "param_grad" else axis
        if not -values.ndim <= axis < values.ndim:
            raise UsageError(
                f"axis {axis} is out of range: the tensor of {self.layer} has {values.ndim} axes"
            )
        rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).astype(np.float64)
        if not rows.shape[1]:
            raise UsageError(f"the tensor of {self.layer} is empty: its shape is {values.shape}")
        with np.errstate(invalid="ignore", over="ignore"):
            return Channels(
                axis % values.ndim,
                rows.mean(axis=1),
                rows.std(axis=1),
                np.abs(rows).max(axis=1),
                (rows == 0).mean(axis=1),
            )

    def save(self, path: Path | str) -> Path:
        """Write the array as `.npy`, or as `.safetensors` if that package is installed. Return the path.

        Raises UsageError for another suffix, or if safetensors is not installed.
        """
        path = Path(path)
        if path.suffix == ".npy":
            np.save(path, self.array, allow_pickle=False)
        elif path.suffix == ".safetensors":
            _save_safetensors(path, self)
        else:
            raise UsageError(f"expected a path that ends with .npy or .safetensors, got {path.name!r}")
        return path


def array_of(message: Captured) -> CapturedArray:
    """Return the tensor of a message. Raises ProtocolError if the body does not match the head."""
    kind = "<u2" if message.dtype == "bfloat16" else _DTYPES.get(message.dtype)
    if kind is None:
        raise ProtocolError(f"a captured tensor has the unknown dtype {message.dtype!r}")
    size_bytes = math.prod(message.shape) * np.dtype(kind).itemsize
    if size_bytes != len(message.body):
        raise ProtocolError(
            f"a captured tensor of shape {message.shape} and dtype {message.dtype} has {size_bytes} "
            f"bytes, got {len(message.body)}"
        )
    array = np.frombuffer(message.body, kind).reshape(message.shape)
    if message.dtype == "bfloat16":
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return CapturedArray(
        message.step,
        message.layer,
        message.what,
        message.name,
        array,
        message.dtype,
        message.full_shape,
        message.note,
    )


class Incoming:
    """Captured tensors by the command that requested them. Tensors of other commands are dropped."""

    def __init__(self) -> None:
        self._arrival = threading.Condition()
        self._there: dict[bytes, dict[int, Captured]] = {}
        self._is_closed = False

    def expect(self, command: bytes) -> None:
        """Keep the tensors of a command from now on, until `take`."""
        with self._arrival:
            self._there[command] = {}

    def put(self, message: Captured) -> None:
        """Store a tensor that has arrived."""
        with self._arrival:
            if message.command in self._there:
                self._there[message.command][message.index] = message
                self._arrival.notify_all()

    def take(self, command: bytes, timeout_s: float) -> list[Captured]:
        """Return all tensors of a command. Raises LinkError if they do not arrive within `timeout_s`."""
        deadline_s = time.monotonic() + timeout_s
        with self._arrival:
            try:
                while not _is_whole(there := self._there[command]):
                    left_s = deadline_s - time.monotonic()
                    if left_s <= 0 or self._is_closed:
                        raise LinkError(f"the captured tensors did not arrive in {timeout_s:g} s")
                    self._arrival.wait(left_s)
                return [there[index] for index in sorted(there)]
            finally:
                self._there.pop(command, None)

    def forget(self, command: bytes) -> None:
        """Drop the tensors of a command."""
        with self._arrival:
            self._there.pop(command, None)

    def close(self) -> None:
        """End all waiting."""
        with self._arrival:
            self._is_closed = True
            self._arrival.notify_all()


def _is_whole(there: dict[int, Captured]) -> bool:
    return bool(there) and len(there) >= next(iter(there.values())).count


def _save_safetensors(path: Path, captured: CapturedArray) -> None:
    try:
        from safetensors.numpy import save_file  # noqa: PLC0415 - optional
    except ImportError as error:
        raise UsageError(
            "saving as .safetensors needs the package safetensors, which is not installed: "
            "pip install safetensors; or save as .npy"
        ) from error
    name = ".".join(part for part in (captured.layer, captured.name) if part) or "tensor"
    about = {"step": str(captured.step), "what": captured.what, "dtype": captured.dtype}
    save_file({name: np.ascontiguousarray(captured.array)}, path, metadata=about)
