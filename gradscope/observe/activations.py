"""Outputs and their gradients: what a forward hook sees, and the hooks that it leaves on tensors."""

import torch
from torch.utils.hooks import RemovableHandle

from gradscope.hooks import GradientHook, LayerInfo, find_tensors, is_recomputing, watch_gradient
from gradscope.observe.board import Board

__all__ = ["ActivationObserver", "LayerSlot"]


class LayerSlot:
    """What the observer keeps for one layer: its index, its rows by path, and this step's outputs."""

    __slots__ = ("index", "rows", "seen")

    def __init__(self, layer: LayerInfo) -> None:
        self.index = layer.index
        self.rows: dict[str, tuple[int, int]] = {}
        self.seen = 0


class ActivationObserver:
    """Measures `out` when a layer has run and `grad` when its output's gradient is known.

    A step begins with `begin` and ends with `end`: a hook of an earlier step that fires late (a graph
    kept by `retain_graph`) is recognised and ignored. Forwards with gradients disabled are evaluation
    and no part of a training step.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._epoch = 0
        self._touched: list[LayerSlot] = []
        self._leaf_handles: list[RemovableHandle] = []

    def begin(self) -> None:
        """Begin a step: what is seen from now on belongs to it."""
        self._epoch += 1

    def end(self) -> None:
        """End the step: take hooks off leaves, forget what was seen."""
        self._epoch += 1
        for handle in self._leaf_handles:
            handle.remove()
        self._leaf_handles.clear()
        for slot in self._touched:
            slot.seen = 0
        self._touched.clear()

    def on_output(self, slot: LayerSlot, output: object) -> None:
        """Measure what a layer returned, and watch the gradients of its tensors."""
        if not torch.is_grad_enabled():
            return
        is_new = self._is_new(slot)
        if isinstance(output, torch.Tensor):
            if output.is_floating_point() or output.is_complex():
                self._observe(slot, "", output, is_new)
            return
        for path, tensor in find_tensors(output):
            self._observe(slot, path, tensor, is_new)

    def watch_arriving(self, slot: LayerSlot, tensor: torch.Tensor) -> None:
        """Watch the gradient that arrives at a layer's intervention, before it is changed."""
        self._watch(self._board.row(slot.index, "grad_arriving"), tensor)

    def _is_new(self, slot: LayerSlot) -> bool:
        """Whether these outputs are to be counted: checkpointing computes some a second time."""
        if is_recomputing():
            return slot.seen == 0
        if slot.seen == 0:
            self._touched.append(slot)
        slot.seen += 1
        return True

    def _observe(self, slot: LayerSlot, path: str, tensor: torch.Tensor, is_new: bool) -> None:
        rows = slot.rows.get(path)
        if rows is None:
            suffix = f".{path}" if path else ""
            out = self._board.row(slot.index, f"out{suffix}")
            rows = slot.rows[path] = out, self._board.row(slot.index, f"grad{suffix}")
        if is_new:
            self._board.add(rows[0], tensor)
        if tensor.requires_grad:
            self._watch(rows[1], tensor)

    def _watch(self, row: int, tensor: torch.Tensor) -> None:
        self._board.expect(row)
        handle = watch_gradient(tensor, GradientHook(self._on_gradient, (self._epoch, row)))
        if handle is not None:
            self._leaf_handles.append(handle)

    def _on_gradient(self, token: tuple[int, int], gradient: torch.Tensor) -> None:
        epoch, row = token
        if epoch == self._epoch:
            self._board.add(row, gradient)
