"""In which layer a thread is, and to which layer an operation of its past belongs.

Autograd numbers the operations that it records in a thread, one after the other. So the number that
was due when a module was entered, and the one when it was left, tell for each recorded operation which
module was the innermost one at that time; nothing has to be laid around any tensor.
"""

from bisect import bisect_right
from collections.abc import Sequence

import torch

__all__ = ["OUTSIDE", "LayerAttribution", "next_sequence_number"]

OUTSIDE = -1
"""Stands for a layer where there is none: outside of the model."""


def next_sequence_number() -> int:
    """Return the number that autograd will give to the next operation recorded in this thread."""
    return int(torch.autograd._get_sequence_nr())  # type: ignore[attr-defined]  # noqa: SLF001 - no public name


class LayerAttribution:
    """The layers that one thread has entered and not left, and when that changed.

    An entry that is never followed by its end (an interrupt) is dropped when one around it is left.
    """

    def __init__(self) -> None:
        self._open: list[int] = []
        self._since: list[int] = []
        self._lines: list[tuple[int, ...]] = []
        self.began_at: int | None = None
        """The number that was due when an outermost layer was entered last."""

    @property
    def layer(self) -> int:
        """The innermost layer that is entered at present."""
        return self._open[-1] if self._open else OUTSIDE

    @property
    def stack(self) -> Sequence[int]:
        """All layers that are entered at present, the outermost first."""
        return self._open

    def enter(self, layer: int) -> bool:
        """Note that a layer is entered; return whether it is an outermost one."""
        if not self._open:
            self.began_at = next_sequence_number()
        self._open.append(layer)
        self._note()
        return len(self._open) == 1

    def leave(self, layer: int) -> bool:
        """Note that a layer is left; return whether it was an outermost one.

        One that was never entered (the hooks came while it ran) changes nothing.
        """
        if layer not in self._open:
            return False
        while self._open.pop() != layer:
            pass
        self._note()
        return not self._open

    def stack_of(self, sequence: int) -> tuple[int, ...]:
        """Return the layers in which the operation of that number was recorded, the outermost first."""
        place = bisect_right(self._since, sequence) - 1
        return self._lines[place] if place >= 0 else ()

    def layer_of(self, sequence: int) -> int:
        """Return the innermost of these layers."""
        line = self.stack_of(sequence)
        return line[-1] if line else OUTSIDE

    def _note(self) -> None:
        self._since.append(next_sequence_number())
        self._lines.append(tuple(self._open))
