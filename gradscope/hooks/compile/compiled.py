"""`CompiledHook`: inserts operations that observe a compiled forward while torch.compile traces it.

The graph gets one operation for each output tensor and one for its gradient. An operation changes nothing
and calls a Python function with the tensor. It is inserted only if `is_on` was true during tracing: the
compiler guards this plain bool and keeps two graphs, so an unobserved step runs the graph without
operations.
"""

import dataclasses
import functools
import itertools
import sys
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import Any

import torch
from torch import nn
from torch.fx.node import has_side_effect

__all__ = ["CompiledHook", "Seen", "has_compiled"]


class Seen(IntEnum):
    """The kind of tensor that an operation in the graph reports."""

    OUTPUT = 0
    OUTPUT_WITH_GRADIENT = 1
    GRADIENT = 2


_OnSeen = Callable[[int, Seen, str, torch.Tensor], None]
_listeners: dict[int, _OnSeen] = {}
"""Hooks by number, because an operation in a graph can hold only numbers and tensors."""
_numbers = itertools.count()


def has_compiled() -> bool:
    """Return whether Dynamo has traced anything in this process."""
    utils = sys.modules.get("torch._dynamo.utils")
    return utils is not None and bool(utils.counters.get("stats"))


@functools.cache
def _operation() -> Callable[[torch.Tensor, int, int, int, str], None]:
    """Define the operation, and declare to torch.fx that it has a side effect, so that it is not removed.

    Declaring a mutated argument would also keep it. But the operation is in the forward and in the backward
    graph, so autograd would find that the argument changed after it was saved, and raise.
    """

    def see(tensor: torch.Tensor, listener: int, index: int, what: int, path: str) -> None:
        on_seen = _listeners.get(listener)
        if on_seen is not None:
            on_seen(index, Seen(what), path, tensor)

    operation = torch.library.custom_op("gradscope::see", see, mutates_args=())
    operation.register_fake(lambda *_: None)
    has_side_effect(torch.ops.gradscope.see.default)
    return operation


class _GradientMark:
    """The gradient hook that is traced into the backward graph."""

    def __init__(self, hook: "CompiledHook", index: int) -> None:
        self.hook = hook
        self.index = index

    def see(self, path: str, gradient: torch.Tensor) -> None:
        """Insert the operation that observes a gradient."""
        self.hook.see(gradient, self.hook.number, self.index, 2, path)


class CompiledHook:
    """Inserts operations into the graphs of the watched modules, from `open` to `close`.

    `on_seen(index, what, path, tensor)` is called when a graph runs; it must not raise.
    """

    def __init__(self, on_seen: _OnSeen) -> None:
        self._on_seen = on_seen
        self.is_on = False
        self.number = next(_numbers)
        self.see = _operation()
        self._marks: dict[int, _GradientMark] = {}

    def open(self) -> None:
        """Register for callbacks."""
        _listeners[self.number] = self._on_seen

    def close(self) -> None:
        """Unregister; graphs compiled later contain no operations."""
        self.is_on = False
        _listeners.pop(self.number, None)

    def watch(self, modules: Iterable[tuple[nn.Module, int]]) -> None:
        """Set the watched modules and the index of each."""
        self._marks = {id(module): _GradientMark(self, index) for module, index in modules}

    def trace(self, module: nn.Module, output: Any) -> None:  # Any: a module may return any type
        """Insert operations for an output while its forward is traced; none while a graph is exported."""
        if not self.is_on or not torch.is_grad_enabled() or torch.compiler.is_exporting():
            return
        mark = self._marks.get(id(module))
        if mark is None:
            return
        for path, tensor in _tensors(output, ""):
            has_gradient = tensor.requires_grad
            self.see(tensor.detach(), self.number, mark.index, 1 if has_gradient else 0, path)
            if has_gradient:
                tensor.register_hook(functools.partial(mark.see, path))  # type: ignore[no-untyped-call]  # torch does not annotate it


def _tensors(value: Any, path: str) -> list[tuple[str, torch.Tensor]]:  # Any: as above
    """Return what `find_tensors` yields, in a form that Dynamo can trace."""
    if isinstance(value, torch.Tensor):
        return [(path, value)] if value.is_floating_point() else []
    items: list[tuple[object, Any]]
    if isinstance(value, list | tuple):
        items = list(enumerate(value))
    elif isinstance(value, dict):
        items = list(value.items())
    elif dataclasses.is_dataclass(value):
        items = [(field.name, getattr(value, field.name, None)) for field in dataclasses.fields(value)]
    else:
        return []
    found = []
    for key, child in items:
        found += _tensors(child, f"{path}.{key}" if path else str(key))
    return found
