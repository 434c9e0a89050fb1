"""Reads of single tensors: bounded in size, without effect on the tensor, and small results that stay on its device."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, Final

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.parameter import is_lazy

__all__ = [
    "DIGEST_ELEMENTS",
    "digest_of",
    "is_readable",
    "is_regular",
    "sampled",
    "spread_and_power",
    "tensors_of",
    "unit_ranges",
    "wide",
]

DIGEST_ELEMENTS: Final = 1 << 15
"""The number of elements that a digest covers; of a larger tensor every n-th."""

_DEPTH: Final = 3
_TENSORS: Final = 16
"""The largest number of tensors that are taken from the arguments of one call."""


_DTYPES: Final = frozenset(
    {
        *(torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool),
        *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    }
)


def is_readable(value: object) -> bool:
    """Return whether a value is a plain tensor with elements that can be read."""
    return (
        isinstance(value, torch.Tensor)
        and type(value) in (torch.Tensor, torch.nn.Parameter)
        and not isinstance(value, FakeTensor)
        and not is_lazy(value)
        and value.layout is torch.strided
        and value.dtype in _DTYPES
        and not (value.is_conj() or value.is_neg())
        and not (value.is_meta or value.is_quantized or value.is_nested)
        and not torch._C._functorch.is_functorch_wrapped_tensor(value)  # noqa: SLF001 - no public name
        and value.numel() > 0
    )


def sampled(tensor: torch.Tensor, limit: int, keep: int | None = None) -> torch.Tensor:
    """Return a view with at most about `limit` elements: every n-th along the last dimensions, dimension 0 at last.

    keep: a dimension that is not shortened.
    """
    tensor = tensor.detach()
    kept = None if keep is None else keep % max(1, tensor.dim())
    for dim in reversed(range(tensor.dim())):
        count = tensor.numel()
        if count <= limit:
            break
        if dim != kept:
            step = min(-(-count // limit), tensor.shape[dim])
            tensor = tensor[(slice(None),) * dim + (slice(None, None, max(1, step)),)]
    return tensor


def wide(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor as float64, or as float32 on a device without float64."""
    return tensor.to(torch.float32 if tensor.device.type == "mps" else torch.float64)


def spread_and_power(tensor: torch.Tensor) -> torch.Tensor:
    """Return two numbers: the variance over dimension 0, averaged over all positions, and the mean square."""
    values = wide(tensor)
    return torch.stack([values.var(0, correction=0).mean(), values.square().mean()])


def unit_ranges(tensor: torch.Tensor, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the minimum and the maximum of each unit along `dim`."""
    others = [each for each in range(tensor.dim()) if each != dim % tensor.dim()]
    return tensor.amin(others), tensor.amax(others)


def digest_of(sample: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Return 64 bits over the dtype and shape of a tensor and a sample of its elements, which is on the host."""
    data = sample.contiguous().reshape(-1)
    digest = hashlib.blake2b(f"{dtype}{shape}".encode(), digest_size=8)
    if data.numel():
        digest.update(data.view(torch.uint8).numpy().tobytes())
    return int.from_bytes(digest.digest(), "little")


def is_regular(values: torch.Tensor) -> bool:
    """Return whether values on the host are constant or evenly spaced, as of `arange`, `linspace`, a grid, `eye`."""
    if values.dtype is torch.bool or values.numel() < 2:
        return True
    is_square = values.dim() == 2 and values.shape[0] == values.shape[1] > 1
    if is_square and bool((values == torch.eye(len(values), dtype=values.dtype)).all()):
        return True
    is_float, values = values.is_floating_point(), values.double()
    rows = values.reshape(len(values), -1) if values.dim() > 1 else values[:, None]
    if bool((rows == rows.reshape(-1)[0]).all()) or _is_even(rows.reshape(-1)):
        return True
    if rows.shape[1] > 1 and _is_even(rows[0]) and bool((rows == rows[:1]).all()):
        return True
    is_grid = is_float and 2 <= rows.shape[1] <= _DEPTH
    return is_grid and all(_is_axis(column) for column in rows.unbind(1))


def _is_axis(column: torch.Tensor) -> bool:
    values = column.unique()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    return len(values) > 2 and 2 * len(values) <= len(column) and _is_even(values)


def _is_even(values: torch.Tensor) -> bool:
    if len(values) < 3:
        return False
    steps = values.diff()
    return bool(((steps - steps.mean()).abs() <= 1e-3 * steps.mean().abs()).all())


def tensors_of(args: object, kwargs: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the readable tensors in the arguments of a call, of any dtype, with their paths."""
    left = _TENSORS
    for path, tensor in (*_walk(args, "", 0), *_walk(kwargs, "", 0)):
        if left and is_readable(tensor):
            left -= 1
            yield path, tensor


def _walk(value: object, path: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif depth <= _DEPTH and isinstance(value, (list, tuple)):
        for position, each in enumerate(value):
            yield from _walk(each, f"{path}.{position}" if path else str(position), depth + 1)
    elif depth <= _DEPTH and isinstance(value, Mapping):
        for key, each in value.items():
            yield from _walk(each, f"{path}.{key}" if path else str(key), depth + 1)
