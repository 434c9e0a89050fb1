"""`ActivationObserver`: records the outputs of layers, and the gradients of these outputs by tensor hooks."""

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from gradscope.hooks import (
    GradientHook,
    LayerInfo,
    Seen,
    find_tensors,
    is_recomputing,
    is_transforming,
    watch_gradient,
)
from gradscope.observe.row_buffer import RowBuffer

__all__ = ["ActivationObserver", "LayerSlot", "RecordOutput", "Token"]


@dataclass(frozen=True, slots=True)
class TensorRows:
    """The rows of one tensor of a layer's output, and of its gradient."""

    layer: int
    kind: str
    out_row: int
    grad_row: int


Token: TypeAlias = tuple[int, TensorRows]
"""Data of a tensor hook: the epoch (step) in which it was installed, and the rows of the tensor's gradient."""

RecordOutput: TypeAlias = Callable[[nn.Module, Any], bool]  # Any: a module may return any type
"""Records a module's output if possible, and returns whether it was recorded."""


class LayerSlot:
    """The observer's data of one layer: module, index, and rows by path in the output."""

    __slots__ = ("arriving", "index", "module", "places")

    def __init__(self, layer: LayerInfo) -> None:
        self.module = weakref.ref(layer.module)
        self.index = layer.index
        self.places: dict[str, TensorRows] = {}
        self.arriving: TensorRows | None = None


class ActivationObserver:
    """Records `out` after each forward of a layer, and `grad` when the gradient of the output is computed.

    A step lasts from `begin` to `end`. Hooks of an earlier step that run late (after `retain_graph`) are
    ignored. Forwards with gradients disabled are evaluation and not recorded. The tensor hooks call
    `on_gradient(token, gradient)`, which must call `add_gradient` and must not raise.

    `record_output(module, output)` is the C fast path of `on_output`, for layers whose rows are allocated. It
    returns whether the output was recorded. It is None without the native pass. `give_up` receives its
    exceptions.
    """

    def __init__(
        self,
        buffer: RowBuffer,
        on_gradient: Callable[[Token, torch.Tensor], None],
        give_up: Callable[[Exception], None],
    ) -> None:
        self._buffer = buffer
        self._on_gradient = on_gradient
        self._native_hooks = buffer.make_native_hooks(on_gradient, give_up)
        self.record_output: RecordOutput | None = (
            self._native_hooks.record_output if self._native_hooks is not None else None
        )
        self._epoch = 0
        self._leaf_handles: list[RemovableHandle] = []

    def begin(self) -> None:
        """Begin a step."""
        self._begin_epoch()

    def end(self) -> None:
        """End the step: remove the hooks on leaf tensors."""
        self._begin_epoch()
        for handle in self._leaf_handles:
            handle.remove()
        self._leaf_handles.clear()

    def take_native_counts(self) -> tuple[float, int]:
        """Return the seconds spent in C and the outputs recorded there since the last call."""
        return self._native_hooks.take_counts() if self._native_hooks is not None else (0.0, 0)

    def on_output(self, slot: LayerSlot, output: object) -> None:
        """Record the output of a layer, and install hooks on the gradients of its tensors."""
        if not torch.is_grad_enabled() or is_recomputing():
            return
        if isinstance(output, torch.Tensor):
            if output.is_floating_point() or output.is_complex():
                self._observe(slot, "", output)
            return
        for path, tensor in find_tensors(output):
            self._observe(slot, path, tensor)

    def add_compiled(self, layer: int, what: Seen, path: str, tensor: torch.Tensor) -> None:
        """Record a tensor from a compiled graph: part of an output, or its gradient."""
        suffix = f".{path}" if path else ""
        if what is not Seen.GRADIENT and is_recomputing():
            return
        if what is Seen.GRADIENT:
            self._buffer.add(self._buffer.row(layer, f"grad{suffix}"), tensor)
            return
        self._buffer.add(self._buffer.row(layer, f"out{suffix}"), tensor)
        if what is Seen.OUTPUT_WITH_GRADIENT:
            self._buffer.expect_gradient(self._buffer.row(layer, f"grad{suffix}"))

    def watch_arriving(self, slot: LayerSlot, tensor: torch.Tensor) -> None:
        """Observe the gradient that arrives at a layer's intervention, before it is changed."""
        if slot.arriving is None:
            row = self._buffer.row(slot.index, "grad_arriving")
            slot.arriving = TensorRows(slot.index, "grad_arriving", row, row)
        self._watch(slot.arriving, tensor)

    def add_gradient(self, token: Token, gradient: torch.Tensor) -> None:
        """Record a gradient. A gradient of an earlier step is ignored.

        A backward pass that builds a graph (`create_graph=True`, for a gradient penalty, for example) does not
        compute gradients of the loss. They are recorded in a separate row.
        """
        epoch, place = token
        if epoch != self._epoch:
            return
        row = place.grad_row
        if torch.is_grad_enabled():
            row = self._buffer.row(place.layer, place.kind.replace("grad", "grad_create_graph", 1))
        self._buffer.add(row, gradient)

    def _observe(self, slot: LayerSlot, path: str, tensor: torch.Tensor) -> None:
        place = slot.places.get(path) or self._allocate_rows(slot, path)
        self._buffer.add(place.out_row, tensor)
        if tensor.requires_grad or is_transforming():
            self._watch(place, tensor)

    def _begin_epoch(self) -> None:
        self._epoch += 1
        if self._native_hooks is not None:
            self._native_hooks.begin_epoch(self._epoch)

    def _allocate_rows(self, slot: LayerSlot, path: str) -> TensorRows:
        suffix = f".{path}" if path else ""
        out, grad = (self._buffer.row(slot.index, kind + suffix) for kind in ("out", "grad"))
        place = slot.places[path] = TensorRows(slot.index, f"grad{suffix}", out, grad)
        module = slot.module()
        if self._native_hooks is not None and module is not None and not path:
            self._native_hooks.add_module(module, out, grad, place)
        return place

    def _watch(self, place: TensorRows, tensor: torch.Tensor) -> None:
        self._buffer.expect_gradient(place.grad_row)
        if is_transforming():
            return
        handle = watch_gradient(tensor, GradientHook(self._on_gradient, (self._epoch, place)))
        if handle is not None:
            self._leaf_handles.append(handle)
