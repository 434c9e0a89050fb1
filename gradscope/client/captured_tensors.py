"""Captured tensors as NumPy arrays: waiting for them, statistics by channel, and saving to a file."""

import math
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import LinkError, ProtocolError, UsageError
from gradscope.protocol import Captured

__all__ = ["CapturedArray", "Channels", "ReceivedTensors", "array_of"]

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
            f"a captured tensor of shape {message.shape} and dtype {message.dtype} must have "
            f"{size_bytes} bytes, got {len(message.body)}"
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


class ReceivedTensors:
    """Captured tensors by the command that requested them. Tensors of other commands are dropped.

    The link's thread calls `put`; any thread calls the other methods.
    """

    def __init__(self) -> None:
        self._parts: dict[bytes, dict[int, Captured]] = {}
        self._futures: dict[bytes, Future[list[Captured]]] = {}

    def expect(self, command: bytes) -> "Future[list[Captured]]":
        """Return a Future of all tensors of a command. They are kept until `forget`."""
        self._parts[command] = {}
        future = self._futures[command] = Future()
        return future

    def put(self, message: Captured) -> None:
        """Store a tensor that has arrived."""
        future, parts = self._futures.get(message.command), self._parts.get(message.command)
        if future is not None and parts is not None and not future.done():
            parts[message.index] = message
            if len(parts) >= message.count:
                future.set_result([parts[index] for index in sorted(parts)])

    def forget(self, command: bytes) -> None:
        """Drop the tensors of a command."""
        self._futures.pop(command, None)
        self._parts.pop(command, None)

    def close(self) -> None:
        """End all waiting."""
        for future in list(self._futures.values()):
            if not future.done():
                future.set_exception(
                    LinkError("the client was closed before the captured tensors came")
                )


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
