"""`PastBlocks` keeps whole blocks of the newest steps, so that a condition can be tried on them."""

from collections import deque
from collections.abc import Iterator

from gradscope.columns import Block

__all__ = ["PastBlocks"]

_LIMIT_BYTES = 32 << 20
"""About 60 steps of 1,500 layers, and 600 of 150."""

_MOST = 600


class PastBlocks:
    """At most 600 steps and 32 MiB, in the order in which they arrived."""

    def __init__(self) -> None:
        self._blocks: deque[tuple[int, Block, int]] = deque()
        self._bytes = 0

    def add(self, step: int, block: Block) -> None:
        """Keep the block of a step; forget the oldest ones that no longer fit."""
        size = sum(array.nbytes for array in block.values.values())
        self._blocks.append((step, block, size))
        self._bytes += size
        while len(self._blocks) > _MOST or (self._bytes > _LIMIT_BYTES and len(self._blocks) > 1):
            self._bytes -= self._blocks.popleft()[2]

    def __iter__(self) -> Iterator[tuple[int, Block]]:
        """Yield steps and blocks, by step."""
        return iter(
            sorted(((step, block) for step, block, _ in self._blocks), key=lambda each: each[0])
        )

    def clear(self) -> None:
        """Remove everything."""
        self._blocks.clear()
        self._bytes = 0
