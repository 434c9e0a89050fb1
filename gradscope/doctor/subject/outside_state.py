"""State that a function reaches without its arguments: classes, modules, globals, closures, random generators.

A run may change this state: backward can call `.backward()`, which adds to the gradients of the user's parameters.
`OutsideState` records it, names what has changed, and restores it.
"""

import random
import sys
import types
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from gradscope.doctor.subject.instrument import is_same
from gradscope.hooks import size_bytes_of

__all__ = ["OutsideState", "random_states_restored", "seed_generators"]

_LIBRARIES: Final = frozenset({"torch", "numpy", "gradscope"}) | sys.stdlib_module_names
"""Top-level packages whose classes and modules hold no state of the user."""

_MISSING: Final = object()
_ELEMENTS_LIMIT: Final = 1000
_DISTANCE_LIMIT: Final = 5
"""A class, its backward, a function that this calls, a global of it, and what that holds."""

_OBJECTS_LIMIT: Final = 10_000
_COPIED_LIMIT_BYTES: Final = 2**28
"""Tensors beyond this total size are not copied: a change of their values is neither seen nor undone."""


class OutsideState:
    """The values that can be reached from some objects, in at most five steps, when it is created.

    Objects of libraries are not searched. The submodules of a module are at the distance of the module.
    """

    def __init__(self, roots: Iterable[object]) -> None:
        self._namespaces: list[_Namespace] = []
        self._tensors: list[_RecordedTensor] = []
        self._copied_bytes = 0
        seen: dict[int, object] = {}
        nearest: list[tuple[str, object]] = [("", root) for root in roots]
        for _ in range(_DISTANCE_LIMIT):
            found: list[tuple[str, object]] = []
            for name, value in nearest:
                if id(value) not in seen and len(seen) < _OBJECTS_LIMIT:
                    seen[id(value)] = value
                    found += self._record(name, value)
                    if isinstance(value, nn.Module):
                        seen.update((id(part), part) for part in value.modules())
            nearest = found

    def changes(self) -> list[str]:
        """Return the names of the attributes, variables, elements and tensors that hold something else now."""
        names = [name for namespace in self._namespaces for name in namespace.changes()]
        names += [tensor.name for tensor in self._tensors if tensor.is_written()]
        return list(dict.fromkeys(names))

    def restore(self) -> None:
        """Give tensors, gradients, attributes and variables their recorded values."""
        for tensor in self._tensors:
            tensor.restore()
        for namespace in self._namespaces:
            namespace.restore()

    def _record(self, name: str, value: Any) -> Sequence[tuple[str, object]]:  # Any: any object
        """Record one value, and return the values that it refers to, with their names."""
        if isinstance(value, Tensor):
            is_copied = self._copied_bytes + size_bytes_of(value) <= _COPIED_LIMIT_BYTES
            self._copied_bytes += size_bytes_of(value) if is_copied else 0
            self._tensors.append(_RecordedTensor(name, value, is_copied=is_copied))
            return ()
        if isinstance(value, (tuple, frozenset)):
            return [(name, held) for held in value]
        if isinstance(value, (staticmethod, classmethod, types.MethodType)):
            return (name, value.__func__), (name, getattr(value, "__self__", None))
        if isinstance(value, partial):
            return (name, value.func), (name, value.args), (name, value.keywords)
        namespaces = list(_namespaces_of(name, value))
        self._namespaces += namespaces
        found = [pair for namespace in namespaces for pair in namespace.named_values()]
        if isinstance(value, types.FunctionType):
            found += [(name, value.__defaults__), (name, getattr(value, "__wrapped__", None))]
        elif namespaces and not isinstance(value, type):
            found.append((name, type(value)))
        return found


class _Namespace:
    """The values of a container, of a class or object, of a closure's cells, or of some globals, at one moment.

    keys: the keys to record; None for all.
    shown: the name of an element, with {} for its key.
    is_kept: never restore it; a list or dict may be the user's log of the calls.
    """

    def __init__(
        self,
        shown: str,
        holder: Any,
        keys: Collection[str] | None = None,
        *,
        is_kept: bool = False,
    ) -> None:
        self._shown, self._holder, self._keys, self._is_kept = shown, holder, keys, is_kept
        self._values = self._read()

    def named_values(self) -> Iterator[tuple[str, object]]:
        """Yield the name and the value of each recorded element, of a large container only the first ones."""
        for key, value in islice(self._values.items(), _ELEMENTS_LIMIT):
            yield self._shown.format(key), value

    def changes(self) -> Iterator[str]:
        """Yield the names of the elements that were added, removed or replaced."""
        now = self._read()
        for key in {**self._values, **now}:
            if now.get(key, _MISSING) is not self._values.get(key, _MISSING):
                yield self._shown.format(key)

    def restore(self) -> None:
        """Give the elements their recorded values, except in the user's own containers."""
        if not self._is_kept:
            now = self._read()
            for key in {**self._values, **now}:
                value = self._values.get(key, _MISSING)
                if value is not now.get(key, _MISSING):
                    self._set(key, value)

    def _read(self) -> dict[Any, Any]:  # Any: the user's keys and values
        holder = self._holder
        if isinstance(holder, (list, deque)):
            return dict(enumerate(holder))
        if isinstance(holder, set):
            return {id(value): value for value in holder}
        if isinstance(holder, types.CellType):
            try:
                return {"": holder.cell_contents}
            except ValueError:
                return {}
        values = holder if isinstance(holder, dict) else vars(holder)
        if self._keys is not None:
            return {key: values[key] for key in self._keys if key in values}
        return {key: value for key, value in values.items() if key not in _NOT_STATE}

    def _set(self, key: Any, value: object) -> None:  # Any: the user's key
        if isinstance(self._holder, types.CellType):
            self._holder.cell_contents = value
        elif value is _MISSING:
            (self._holder.pop if isinstance(self._holder, dict) else partial(delattr, self._holder))(
                key
            )
        elif isinstance(self._holder, dict):
            self._holder[key] = value
        else:
            setattr(self._holder, key, value)


_NOT_STATE: Final = frozenset({"__dict__", "__weakref__", "__doc__", "__abstractmethods__"})
"""Attributes of a class that cannot be set."""


def _namespaces_of(name: str, value: Any) -> Iterator[_Namespace]:  # Any: any object of the user
    name = name.replace("{", "{{").replace("}", "}}")
    if isinstance(value, (dict, list, deque)):
        yield _Namespace(f"{name}[{{!r}}]", value, is_kept=True)
    elif isinstance(value, set):
        yield _Namespace(name, value, is_kept=True)
    elif isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
        for variable, cell in cells:
            yield _Namespace(f"{variable} of the closure", cell)
        names = frozenset(_names_in(value.__code__))
        yield _Namespace("the global {}", value.__globals__, names)
        for module in (value.__globals__.get(key) for key in names):
            if isinstance(module, types.ModuleType) and _is_users(module):
                yield _Namespace(f"{module.__name__}.{{}}", vars(module), names)
    elif isinstance(value, type):
        if _is_users(value):
            yield _Namespace(f"{value.__name__}.{{}}", value)
    elif isinstance(value, nn.Module) or (hasattr(value, "__dict__") and _is_users(type(value))):
        shown = f"{name or type(value).__name__}.{{}}"
        for place, part in value.named_modules() if isinstance(value, nn.Module) else [("", value)]:
            inside = shown.format(f"{place}.{{}}") if place else shown
            yield _Namespace(inside, vars(part))
            if isinstance(part, nn.Module):
                for held in (part._parameters, part._buffers, part._modules):  # noqa: SLF001 - where a module keeps them
                    yield _Namespace(inside, held)


class _RecordedTensor:
    """The values and the gradient of a tensor at one moment."""

    def __init__(self, name: str, tensor: Tensor, *, is_copied: bool) -> None:
        self.name, self._tensor = name, tensor
        self._values = _copy(tensor) if is_copied else None
        self._has_grad = tensor.is_leaf or tensor.retains_grad
        self._grad = tensor.grad if self._has_grad else None
        self._grad_values = None if self._grad is None or not is_copied else _copy(self._grad)

    def is_written(self) -> bool:
        """Return whether the tensor holds other values."""
        return self._values is not None and not is_same(self._tensor.detach(), self._values)

    def restore(self) -> None:
        """Write the recorded values and gradient into the tensor, if they differ."""
        if self._values is not None and self.is_written():
            self._tensor.data.copy_(self._values)
        if self._has_grad and self._tensor.grad is not self._grad:
            self._tensor.grad = self._grad
        if self._grad is not None and self._grad_values is not None:
            self._grad.data.copy_(self._grad_values)


def _copy(tensor: Tensor) -> Tensor | None:
    if is_lazy(tensor) or tensor.layout is not torch.strided:
        return None
    is_odd = tensor.is_nested or tensor.is_meta or tensor.is_quantized or tensor.is_inference()
    return None if is_odd else tensor.detach().clone()


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def _is_users(owner: Any) -> bool:  # Any: a class or a module
    name = owner.__name__ if isinstance(owner, types.ModuleType) else owner.__module__
    return str(name).partition(".")[0] not in _LIBRARIES


@contextmanager
def random_states_restored(tensors: Iterable[Tensor]) -> Iterator[None]:
    """Restore the random states of torch, on the CPU and the tensors' GPUs, of NumPy and of Python at the end."""
    devices = sorted({t.device.index or 0 for t in tensors if t.is_cuda})
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the generator that users use
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - the same generator


def seed_generators(seed: int, tensors: Sequence[Tensor]) -> None:
    """Seed the generators that `random_states_restored` restores."""
    torch.default_generator.manual_seed(seed)
    for index in {t.device.index or 0 for t in tensors if t.is_cuda}:
        torch.cuda.default_generators[index].manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the generator that users use
