"""`FocusSteps` holds the newest focus steps, which have statistics of the layers in the focus only.

They add points to the curves of those layers and to nothing else. All other pages and the rules use
observed steps only.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import ProtocolError
from gradscope.protocol import Layer, Step
from gradscope.protocol.bodies import unpack_block
from gradscope_tui.store.layers import LayerTree, build_tree
from gradscope_tui.store.measure import measure

__all__ = ["FocusSteps"]

_CAPACITY = 600
_FRESH_S = 3.0
_FRESH_TURNS = 4.0

_Numbers = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class _FocusStep:
    """One focus step. `places` maps a node to its place in each array of `values`."""

    step: int
    time_s: float
    places: Mapping[int, int]
    values: Mapping[str, NDArray[np.float64]]


class FocusSteps:
    """At most 600, in the order of the steps. `unreadable` counts steps that cannot be decoded."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.unreadable = 0
        self._clock = clock
        self._kept: deque[_FocusStep] = deque(maxlen=_CAPACITY)
        self._trees: dict[tuple[int, ...], LayerTree] = {}
        self._every = 0
        self._fresh_until_s = 0.0

    def __len__(self) -> int:
        return len(self._kept)

    def insert(self, message: Step, layers: Sequence[Layer]) -> None:
        """Store a focus step of a model with these layers. A step that is stored already is ignored."""
        newest = self._kept[-1] if self._kept else None
        if newest is not None and message.step <= newest.step:
            if message.time_s <= newest.time_s:
                return
            self.clear()  # the run started again
        try:
            kept = self._measured(message, layers)
        except (ProtocolError, IndexError):
            self.unreadable += 1
            return
        self._kept.append(kept)
        self._every = message.every
        turn_s = message.every * (message.step_time_s or 0.0)
        self._fresh_until_s = self._clock() + _FRESH_S + _FRESH_TURNS * turn_s

    def every(self, node: int) -> int:
        """Return the current interval of a layer's focus steps; 0 if it has none."""
        is_fresh = bool(self._kept) and self._clock() < self._fresh_until_s
        return self._every if is_fresh and node in self._kept[-1].places else 0

    def joined(
        self, quantity: str, node: int, steps: NDArray[np.int64], values: _Numbers, until: int | None
    ) -> tuple[NDArray[np.int64], _Numbers]:
        """Return a layer's numbers of observed steps merged with those of focus steps up to `until`.

        Focus steps older than the oldest observed step are left out, because the curve starts there.
        """
        first = int(steps[0]) if len(steps) else 0
        here = [
            (each.step, each.values[quantity][each.places[node]])
            for each in self._kept
            if node in each.places and each.step >= first and (until is None or each.step <= until)
        ]
        if not here:
            return steps, values
        own_steps, own_values = np.array([s for s, _ in here], np.int64), np.array([v for _, v in here])
        every, places = np.unique(np.concatenate([steps, own_steps]), return_index=True)
        return every, np.concatenate([values, own_values])[places]

    def clear(self) -> None:
        """Remove all focus steps."""
        self._kept.clear()
        self._trees.clear()
        self._every = 0

    def _measured(self, message: Step, layers: Sequence[Layer]) -> _FocusStep:
        block = unpack_block(message)
        nodes = np.unique(block.layer)
        key = tuple(nodes.tolist())
        if key not in self._trees:
            self._trees[key] = build_tree([layers[node] for node in key])
        own = replace(block, layer=np.searchsorted(nodes, block.layer).astype(np.uint32))
        measured = measure(own, self._trees[key], message.step)
        places = {node: place for place, node in enumerate(key)}
        return _FocusStep(message.step, message.time_s, places, measured.values)
