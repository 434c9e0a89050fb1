"""`StepRing` holds the numbers of the newest steps, in the order of the steps.

Most steps arrive in order and are appended. Late ones, from a backfill, are inserted at their place. A
step that is stored already is ignored.
"""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["StepRing"]


class StepRing:
    """At most `capacity` steps; for each step and quantity, a float32 array of `width` numbers.

    `_slots[i]` is the row in memory of the step `_steps[i]`, so that inserting a late step changes two
    short lists and moves no numbers.
    """

    def __init__(self, quantities: Sequence[str], width: int, capacity: int = 600) -> None:
        self.capacity = capacity
        self.width = width
        self._data = {name: np.full((capacity, width), np.nan, np.float32) for name in quantities}
        self._steps: list[int] = []
        self._slots: list[int] = []

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def newest(self) -> int | None:
        """The newest step; None before the first."""
        return self._steps[-1] if self._steps else None

    def insert(self, step: int, numbers: dict[str, NDArray[np.floating]]) -> bool:
        """Store a step. Returns False if it is stored already, or older than all steps of a full ring."""
        at = bisect_left(self._steps, step)
        if at < len(self._steps) and self._steps[at] == step:
            return False
        slot = len(self._steps)
        if slot == self.capacity:
            if at == 0:
                return False
            slot = self._slots.pop(0)
            del self._steps[0]
            at -= 1
        self._steps.insert(at, step)
        self._slots.insert(at, slot)
        with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite
            for name, array in self._data.items():
                array[slot] = numbers[name]
        return True

    def steps(self, last: int | None = None, until: int | None = None) -> NDArray[np.int64]:
        """Return the newest `last` steps (by default all) up to `until`."""
        return np.array(self._steps[self._window(last, until)], np.int64)

    def series(
        self, quantity: str, column: int, last: int | None = None, until: int | None = None
    ) -> NDArray[np.float32]:
        """Return the numbers of one column, one for each of `steps(last, until)`."""
        return self._data[quantity][self._slots[self._window(last, until)], column]

    def matrix(
        self, quantity: str, last: int | None = None, until: int | None = None
    ) -> NDArray[np.float32]:
        """Return a copy of all columns, shape (steps, width)."""
        return self._data[quantity][self._slots[self._window(last, until)]]

    def remapped(self, sources: NDArray[np.intp]) -> "StepRing":
        """Return a ring whose column i is column `sources[i]` of this one, or empty if that is -1."""
        ring = StepRing(tuple(self._data), len(sources), self.capacity)
        ring._steps, ring._slots = list(self._steps), list(self._slots)
        known = sources >= 0
        for name, array in self._data.items():
            ring._data[name][:, known] = array[:, sources[known]]
        return ring

    def clear(self) -> None:
        """Remove all steps."""
        self._steps.clear()
        self._slots.clear()

    def _window(self, last: int | None, until: int | None) -> slice:
        end = len(self._steps) if until is None else bisect_left(self._steps, until + 1)
        return slice(0 if last is None else max(0, end - last), end)
