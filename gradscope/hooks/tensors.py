"""Finds and replaces the tensors in the output of a module.

A path is the position of a tensor in a structure: empty for a single tensor, else indices, keys and field
names joined by dots, such as `0`, `1.0` or `hidden_states.3`. A structure is a tuple, named tuple, list,
mapping or dataclass, including subclasses (a `ModelOutput` is both a mapping and a dataclass). Other objects
are ignored.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch

__all__ = [
    "find_tensors",
    "gradient_of",
    "is_measurable",
    "is_sharded",
    "local_part",
    "replace_tensors",
    "size_bytes_of",
    "stored_parts",
]

T = TypeVar("T")
_DEPTH_LIMIT = 16


def is_measurable(tensor: torch.Tensor) -> bool:
    """Return whether a tensor has a floating-point or complex dtype."""
    return tensor.is_floating_point() or tensor.is_complex()


def is_sharded(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is distributed (a DTensor)."""
    return hasattr(tensor, "to_local")


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a distributed tensor; any other tensor is returned as it is. Does not communicate."""
    to_local = getattr(tensor, "to_local", None)
    local: torch.Tensor = tensor if to_local is None else to_local()
    return local


def stored_parts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Return the strided tensors that hold the elements and indices of a sparse tensor; [] for another layout."""
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]  # noqa: SLF001 - the public ones need it coalesced
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    return []


def size_bytes_of(tensor: torch.Tensor) -> int:
    """Return the size of a tensor's stored elements; 0 for a tensor that has none (jagged, lazy, …)."""
    try:
        return sum(p.numel() * p.element_size() for p in stored_parts(tensor) or [tensor])
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return 0


def gradient_of(parameter: torch.Tensor) -> torch.Tensor | None:
    """Return `.grad`; None for a tensor that is not a leaf, of which reading `.grad` would warn."""
    return parameter.grad if parameter.is_leaf else None


def find_tensors(
    value: object, path: str = "", depth: int = 0, *, of_any_dtype: bool = False
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield (path, tensor) for each tensor in a structure, in order: floating-point and complex ones, or all."""
    if isinstance(value, torch.Tensor):
        if of_any_dtype or is_measurable(value):
            yield path, value
        return
    if depth == _DEPTH_LIMIT:
        return
    for key, child in _children(value):
        place = f"{path}.{key}" if path else str(key)
        yield from find_tensors(child, place, depth + 1, of_any_dtype=of_any_dtype)


def replace_tensors(value: T, replace: Callable[[torch.Tensor], torch.Tensor], depth: int = 0) -> T:
    """Return a structure like `value` with each floating-point or complex tensor replaced.

    If no tensor was replaced, the same object is returned. A structure that contains a replaced tensor is
    rebuilt with its own type.
    """
    if isinstance(value, torch.Tensor):
        return replace(value) if is_measurable(value) else value  # type: ignore[return-value]  # a tensor for a tensor
    if depth == _DEPTH_LIMIT:
        return value
    changed: dict[object, object] = {}
    for key, child in _children(value):
        new = replace_tensors(child, replace, depth + 1)
        if new is not child:
            changed[key] = new
    return _rebuild(value, changed) if changed else value


def _children(value: object) -> Iterator[tuple[object, object]]:
    if isinstance(value, list | tuple):
        yield from enumerate(value)
    elif isinstance(value, Mapping):
        yield from value.items()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for field in dataclasses.fields(value):
            yield field.name, getattr(value, field.name, None)


def _rebuild(value: T, changed: Mapping[object, object]) -> T:
    if isinstance(value, list | tuple):
        items: list[Any] = [changed.get(i, item) for i, item in enumerate(value)]
        make: Callable[..., T] = type(value)
        return make(*items) if hasattr(value, "_fields") else make(items)
    rebuilt = copy.copy(value)
    if isinstance(value, Mapping):
        for key, item in changed.items():
            rebuilt[key] = item  # type: ignore[index]  # a mapping that can be copied can be set
        return rebuilt
    for key, item in changed.items():
        object.__setattr__(rebuilt, str(key), item)
    return rebuilt
