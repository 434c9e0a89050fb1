"""The bytes that each layer saves for the backward pass.

A storage counts once, for the layer whose operation saved it first: if a ReLU and the Linear after it both save the
ReLU's output, it counts for the ReLU. Parameters, buffers and the inputs of the model are not activations.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch.autograd.graph import Node

from gradscope.resources.attribution import OUTSIDE
from gradscope.resources.autograd_graph import SavedByNode, Storage, saved_by, storages_of

__all__ = ["CallTotals", "SavedBytes", "SavedTensorCounter"]


@dataclass(slots=True)
class CallTotals:
    """The storages that one call of the model saves until its backward pass begins."""

    made: dict[int, tuple[int, Storage]] = field(default_factory=dict)
    given: dict[int, Storage] = field(default_factory=dict)
    holders: Counter[tuple[int, str]] = field(default_factory=Counter)
    unseen: Counter[tuple[int, str]] = field(default_factory=Counter)
    is_released: bool = False

    def release(self) -> None:
        """Record that the call's backward pass has begun, which frees the storages."""
        self.is_released = True


@dataclass(slots=True)
class SavedBytes:
    """The bytes that all calls together save at one time.

    by_layer: bytes by layer index.
    host_bytes: the bytes on the host.
    holders: the bytes that a checkpoint or a compiled graph holds, by layer and kind of holder.
    unseen: the number of nodes whose saved memory cannot be read, by layer and reason.
    """

    by_layer: Counter[int] = field(default_factory=Counter)
    input_bytes: int = 0
    host_bytes: int = 0
    holders: Counter[tuple[int, str]] = field(default_factory=Counter)
    unseen: Counter[tuple[int, str]] = field(default_factory=Counter)

    @property
    def total_bytes(self) -> int:
        """The bytes of all saved activations, without inputs and parameters."""
        return sum(self.by_layer.values())


class SavedTensorCounter:
    """Counts the saved storages of the calls of one step. It holds neither tensors nor nodes."""

    def __init__(self) -> None:
        self._names: dict[type, tuple[str, ...]] = {}
        self._calls: list[CallTotals] = []
        self._own: set[int] = set()

    def clear(self) -> None:
        """Begin a step."""
        self._calls.clear()
        self._own.clear()

    def add(
        self,
        nodes: Sequence[Node],
        stack_of: Callable[[int], tuple[int, ...]],
        own: Iterable[torch.Tensor],
        given: Iterable[torch.Tensor],
    ) -> CallTotals:
        """Count the storages that the nodes of one call save.

        own: the model's parameters and buffers. given: the inputs of the call.

        The storages of a checkpoint belong to the innermost layer around all of its operations.
        """
        if not self._own:
            self._own = {s.key for tensor in own for s in storages_of(tensor)}
        inputs = {s.key for tensor in given for s in storages_of(tensor)}
        before = {key for call in self._held() for key in call.made}
        call = CallTotals()
        saved_by_nodes = [saved_by(node, self._names) for node in nodes]
        frames = _stacks_of_checkpoints(saved_by_nodes, stack_of)
        for kept in saved_by_nodes:
            line = frames.get(kept.frame) or stack_of(kept.sequence)
            layer = line[-1] if line else OUTSIDE
            if kept.unseen:
                call.unseen[layer, kept.unseen] += 1
            for storage in kept.storages:
                if storage.key in self._own or storage.key in before or storage.key in call.made:
                    continue
                if storage.key in inputs:
                    call.given[storage.key] = storage
                    continue
                call.made[storage.key] = layer, storage
                if kept.holder:
                    call.holders[layer, kept.holder] += storage.size_bytes
        self._calls.append(call)
        return call

    def held(self) -> SavedBytes:
        """Return the bytes saved by all calls whose backward pass has not begun."""
        saved = SavedBytes()
        inputs: dict[int, Storage] = {}
        for call in self._held():
            inputs |= call.given
            saved.holders += call.holders
            saved.unseen += call.unseen
            for layer, storage in call.made.values():
                saved.by_layer[layer] += storage.size_bytes
                saved.host_bytes += storage.size_bytes if storage.is_host else 0
        saved.input_bytes = sum(storage.size_bytes for storage in inputs.values())
        return saved

    def batch_bytes(
        self, call: CallTotals, given: Iterable[torch.Tensor], returned: Iterable[torch.Tensor]
    ) -> int:
        """Return the bytes of inputs and outputs that are neither parameters nor saved by the call."""
        passed = {s.key: s for tensor in (*given, *returned) for s in storages_of(tensor)}
        return sum(
            storage.size_bytes
            for key, storage in passed.items()
            if key not in call.made and key not in self._own
        )

    def _held(self) -> list[CallTotals]:
        return [call for call in self._calls if not call.is_released]


def _stacks_of_checkpoints(
    saved_by_nodes: Iterable[SavedByNode], stack_of: Callable[[int], tuple[int, ...]]
) -> dict[int, tuple[int, ...]]:
    """Return, for each checkpoint, the layers around all of its nodes."""
    lines: dict[int, tuple[int, ...]] = {}
    for kept in saved_by_nodes:
        if kept.frame:
            line = stack_of(kept.sequence)
            lines[kept.frame] = _common(lines.get(kept.frame, line), line)
    return lines


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    same = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        same += 1
    return one[:same]
