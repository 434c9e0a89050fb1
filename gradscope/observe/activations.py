"""Outputs and their gradients: what a forward hook sees, and the hooks that it leaves on tensors."""

from collections.abc import Callable
from typing import NamedTuple

import torch
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
from gradscope.observe.board import Board

__all__ = ["ActivationObserver", "LayerSlot", "Token"]


class Token(NamedTuple):
    """What a hook on a tensor remembers: the step it was placed in, and where its gradient belongs."""

    epoch: int
    layer: int
    kind: str
    row: int


class LayerSlot:
    """What the observer keeps for one layer: its index, and its rows by path."""

    __slots__ = ("index", "rows")

    def __init__(self, layer: LayerInfo) -> None:
        self.index = layer.index
        self.rows: dict[str, tuple[int, int]] = {}


class ActivationObserver:
    """Measures `out` when a layer has run and `grad` when its output's gradient is known.

    A step begins with `begin` and ends with `end`: a hook of an earlier step that fires late (a graph
    kept by `retain_graph`) is recognised and ignored. Forwards with gradients disabled are evaluation
    and no part of a training step. `on_gradient(token, gradient)` is called by the hooks left on
    tensors; it is to call `add_gradient`, and to keep what that raises from the backward pass.
    """

    def __init__(self, board: Board, on_gradient: Callable[[Token, torch.Tensor], None]) -> None:
        self._board = board
        self._on_gradient = on_gradient
        self._epoch = 0
        self._leaf_handles: list[RemovableHandle] = []

    def begin(self) -> None:
        """Begin a step: what is seen from now on belongs to it."""
        self._epoch += 1

    def end(self) -> None:
        """End the step: take hooks off leaves."""
        self._epoch += 1
        for handle in self._leaf_handles:
            handle.remove()
        self._leaf_handles.clear()

    def on_output(self, slot: LayerSlot, output: object) -> None:
        """Measure what a layer returned, and watch the gradients of its tensors."""
        if not torch.is_grad_enabled() or is_recomputing():
            return
        if isinstance(output, torch.Tensor):
            if output.is_floating_point() or output.is_complex():
                self._observe(slot, "", output)
            return
        for path, tensor in find_tensors(output):
            self._observe(slot, path, tensor)

    def add_compiled(self, layer: int, what: Seen, tensor: torch.Tensor) -> None:
        """Measure what a compiled graph has shown: a layer's output, or the gradient there."""
        if what is Seen.GRADIENT:
            self._board.add(self._board.row(layer, "grad"), tensor)
            return
        self._board.add(self._board.row(layer, "out"), tensor)
        if what is Seen.OUTPUT_WITH_GRADIENT:
            self._board.expect(self._board.row(layer, "grad"))

    def watch_arriving(self, slot: LayerSlot, tensor: torch.Tensor) -> None:
        """Watch the gradient that arrives at a layer's intervention, before it is changed."""
        self._watch(slot.index, "grad_arriving", self._board.row(slot.index, "grad_arriving"), tensor)

    def add_gradient(self, token: Token, gradient: torch.Tensor) -> None:
        """Measure a gradient; one that belongs to an earlier step is ignored.

        A backward pass that builds a graph (`create_graph=True`, as a gradient penalty's does) is no
        gradient of the loss: it goes into a row of its own.
        """
        if token.epoch != self._epoch:
            return
        row = token.row
        if torch.is_grad_enabled():
            row = self._board.row(token.layer, token.kind.replace("grad", "grad_create_graph", 1))
        self._board.add(row, gradient)

    def _observe(self, slot: LayerSlot, path: str, tensor: torch.Tensor) -> None:
        suffix = f".{path}" if path else ""
        rows = slot.rows.get(path)
        if rows is None:
            out = self._board.row(slot.index, f"out{suffix}")
            rows = slot.rows[path] = out, self._board.row(slot.index, f"grad{suffix}")
        self._board.add(rows[0], tensor)
        if tensor.requires_grad or is_transforming():
            self._watch(slot.index, f"grad{suffix}", rows[1], tensor)

    def _watch(self, layer: int, kind: str, row: int, tensor: torch.Tensor) -> None:
        self._board.expect(row)
        if is_transforming():
            return
        token = Token(self._epoch, layer, kind, row)
        handle = watch_gradient(tensor, GradientHook(self._on_gradient, token))
        if handle is not None:
            self._leaf_handles.append(handle)
