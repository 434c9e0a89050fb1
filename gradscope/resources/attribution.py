"""Assigns the operations that autograd records to the layers in which they ran.

Autograd numbers the operations of a thread consecutively. So the next number at the entry and at the exit of each
module determines the innermost module for each operation, and no tensor has to be wrapped.
"""

from bisect import bisect_right
from collections.abc import Sequence

import torch

__all__ = ["OUTSIDE", "LayerAttribution", "next_sequence_number"]

OUTSIDE = -1
"""The index for operations outside all layers."""


def next_sequence_number() -> int:
    """Return the number that autograd will give to the next operation recorded in this thread."""
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]  # noqa: SLF001 - no public name


class LayerAttribution:
    """The stack of layers that one thread is in, and its history by sequence number.

    A layer that was not left (after an interrupt) is dropped when an enclosing layer is left.
    """

    def __init__(self) -> None:
        self._open: list[int] = []
        self._since: list[int] = []
        self._stacks: list[tuple[int, ...]] = []
        self.began_at: int | None = None
        """The next sequence number at the last entry of an outermost layer."""

    @property
    def layer(self) -> int:
        """The innermost layer that the thread is in."""
        return self._open[-1] if self._open else OUTSIDE

    @property
    def stack(self) -> Sequence[int]:
        """All layers that the thread is in, the outermost first."""
        return self._open

    def enter(self, layer: int) -> bool:
        """Record the entry of a layer; return whether it is an outermost layer."""
        if not self._open:
            self.began_at = next_sequence_number()
        self._open.append(layer)
        self._record()
        return len(self._open) == 1

    def leave(self, layer: int) -> bool:
        """Record the exit of a layer; return whether it was an outermost layer.

        Does nothing if the entry was not recorded, because the hooks were installed while the layer ran.
        """
        if layer not in self._open:
            return False
        while self._open.pop() != layer:
            pass
        self._record()
        return not self._open

    def stack_of(self, sequence: int) -> tuple[int, ...]:
        """Return the layers in which the operation with that number ran, the outermost first."""
        place = bisect_right(self._since, sequence) - 1
        return self._stacks[place] if place >= 0 else ()

    def layer_of(self, sequence: int) -> int:
        """Return the innermost layer in which the operation with that number ran, or OUTSIDE."""
        stack = self.stack_of(sequence)
        return stack[-1] if stack else OUTSIDE

    def _record(self) -> None:
        self._since.append(next_sequence_number())
        self._stacks.append(tuple(self._open))
