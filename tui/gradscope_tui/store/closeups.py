"""`Closeups`: the newest looks at the layers in the focus, taken between the observed steps.

They belong to the curves of those layers and to nothing else: whole steps are what all other pages and
the rules go by.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gradscope.errors import ProtocolError
from gradscope.protocol import Closeup, Layer
from gradscope_tui.store.layers import LayerTree, build_tree
from gradscope_tui.store.measure import measure

__all__ = ["Closeups"]

_CAPACITY = 600
_FRESH_S = 3.0
_FRESH_TURNS = 4.0

_Numbers = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class _Look:
    """One closeup: for each quantity a number for each of its nodes."""

    step: int
    time_s: float
    places: Mapping[int, int]
    values: Mapping[str, NDArray[np.float64]]


class Closeups:
    """At most 600 of them, in the order of the steps. `unreadable` counts those that fit no layers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.unreadable = 0
        self._clock = clock
        self._looks: deque[_Look] = deque(maxlen=_CAPACITY)
        self._trees: dict[tuple[int, ...], LayerTree] = {}
        self._every = 0
        self._fresh_until_s = 0.0

    def __len__(self) -> int:
        return len(self._looks)

    def take(self, message: Closeup, layers: Sequence[Layer]) -> None:
        """Keep a closeup of these layers; one that was there already is left."""
        newest = self._looks[-1] if self._looks else None
        if newest is not None and message.step <= newest.step:
            if message.time_s <= newest.time_s:
                return
            self.clear()  # the run started anew
        try:
            look = self._look(message, layers)
        except (ProtocolError, IndexError):
            self.unreadable += 1
            return
        self._looks.append(look)
        self._every = message.every
        turn_s = message.every * (message.step_time_s or 0.0)
        self._fresh_until_s = self._clock() + _FRESH_S + _FRESH_TURNS * turn_s

    def every(self, node: int) -> int:
        """Return every how many steps a layer is looked at now; 0 where it is not."""
        is_fresh = bool(self._looks) and self._clock() < self._fresh_until_s
        return self._every if is_fresh and node in self._looks[-1].places else 0

    def joined(
        self, quantity: str, node: int, steps: NDArray[np.int64], values: _Numbers, until: int | None
    ) -> tuple[NDArray[np.int64], _Numbers]:
        """Return a layer's numbers of observed steps with those of closeups up to `until` among them.

        Closeups older than the oldest of the steps are left out: there the others' curve ends, too.
        """
        first = int(steps[0]) if len(steps) else 0
        here = [
            (look.step, look.values[quantity][look.places[node]])
            for look in self._looks
            if node in look.places and look.step >= first and (until is None or look.step <= until)
        ]
        if not here:
            return steps, values
        own_steps, own_values = np.array([s for s, _ in here], np.int64), np.array([v for _, v in here])
        every, places = np.unique(np.concatenate([steps, own_steps]), return_index=True)
        return every, np.concatenate([values, own_values])[places]

    def clear(self) -> None:
        """Forget all of them."""
        self._looks.clear()
        self._trees.clear()
        self._every = 0

    def _look(self, message: Closeup, layers: Sequence[Layer]) -> _Look:
        block = message.block()
        nodes = np.unique(block.layer)
        key = tuple(nodes.tolist())
        if key not in self._trees:
            self._trees[key] = build_tree([layers[node] for node in key])
        own = replace(block, layer=np.searchsorted(nodes, block.layer).astype(np.uint32))
        measured = measure(own, self._trees[key], message.step)
        places = {node: place for place, node in enumerate(key)}
        return _Look(message.step, message.time_s, places, measured.values)
