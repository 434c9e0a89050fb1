"""Flags the rows of this rank that duplicate rows of a lower rank, so that merging counts them once.

Outputs and their gradients differ between ranks, because each rank has its own part of the batch. A
parameter is the same on all ranks (DDP), or each rank holds a shard (FSDP2), or there are copies of
each shard (hybrid sharding).
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from gradscope.agent.run.distributed import rank_and_world_size
from gradscope.columns import Block, Flags
from gradscope.hooks import LayerInfo

__all__ = ["Replicas"]

_OF_PARAMETERS = ("param", "update")


class Replicas:
    """Flags duplicate rows in the blocks of one model on this rank."""

    def __init__(self, layers: Sequence[LayerInfo]) -> None:
        rank, _ = rank_and_world_size()
        self._copies = {
            layer.index: copied
            for layer in layers
            if (copied := {name for name, each in layer.parameters.items() if is_copy(each, rank)})
        }
        self._counts = {layer.index: len(layer.parameters) for layer in layers}
        self._rows: tuple[tuple[str, ...], NDArray[Any], NDArray[Any]] | None = None
        self._flags = np.zeros(0, np.uint8)

    def marked(self, block: Block) -> Block:
        """Return the block with its duplicate rows flagged."""
        if not self._copies:
            return block
        if self._rows is None or not self._are_those_of(block):
            self._rows = block.kinds, block.layer, block.kind
            self._flags = np.array(
                [
                    self._flag(int(layer), block.kinds[int(kind)])
                    for layer, kind in zip(block.layer, block.kind, strict=True)
                ],
                np.uint8,
            )
        return replace(block, flags=block.flags | self._flags) if self._flags.any() else block

    def _are_those_of(self, block: Block) -> bool:
        kinds, layer, kind = self._rows or ((), block.layer, block.kind)
        same = np.array_equal(layer, block.layer) and np.array_equal(kind, block.kind)
        return same and kinds == block.kinds

    def _flag(self, layer: int, kind: str) -> int:
        if not kind.startswith(_OF_PARAMETERS):
            return 0
        copied = self._copies.get(layer)
        if copied is None:
            return 0
        _, dot, name = kind.partition(".")
        is_replica = name in copied if dot else len(copied) == self._counts[layer]
        return int(Flags.REPLICA) if is_replica else 0


def is_copy(parameter: nn.Parameter, rank: int) -> bool:
    """Return whether a lower rank holds, and reports, the same part of a parameter."""
    mesh: Any = getattr(parameter, "device_mesh", None)  # Any: torch.distributed may be missing
    if mesh is None:
        return rank > 0
    if not bool((mesh.mesh == 0).any()):
        return True  # another group of ranks, which includes rank 0, holds the same values
    placements: Any = parameter.placements  # type: ignore[attr-defined]  # a DTensor's
    coordinate = mesh.get_coordinate() or ()
    pairs = zip(placements, coordinate, strict=False)
    return any(place.is_replicate() and where > 0 for place, where in pairs)
