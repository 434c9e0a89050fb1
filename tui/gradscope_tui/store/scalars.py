"""`ScalarStore`: the scalars of a run, such as its loss, and its steps per second."""

from collections import deque

import numpy as np
from numpy.typing import NDArray

from gradscope.protocol import Scalars
from gradscope_tui.store.ring import StepRing

__all__ = ["ScalarStore"]

_CAPACITY = 2_000
_NAMES_LIMIT = 64
"""Further names are ignored: a run that logs a new name in every step must not fill the memory."""

_RATE_WINDOW_S = 5.0
_OWN_NAMES = ("step_time_s",)
"""Scalars that gradscope logs, not the script."""


class ScalarStore:
    """One ring for each name. A step that is stored already is ignored."""

    def __init__(self) -> None:
        self._rings: dict[str, StepRing] = {}
        self._times: deque[tuple[int, float]] = deque(maxlen=512)

    def insert(self, message: Scalars) -> None:
        """Store the numbers of one message."""
        for name, values in message.values.items():
            ring = self._ring(name)
            if ring is None:
                continue
            for step, value in zip(message.steps, values, strict=False):
                if value is not None:
                    ring.insert(step, {"value": np.array([value])})
        for step, time_s in zip(message.steps, message.times_s, strict=False):
            self.note_time(step, time_s)

    def note_time(self, step: int, time_s: float) -> None:
        """Store when a step ended, unless it is older than the newest one."""
        if not self._times or (step > self._times[-1][0] and time_s >= self._times[-1][1]):
            self._times.append((step, time_s))

    @property
    def names(self) -> tuple[str, ...]:
        """The names that the script logs, the loss first."""
        own = [name for name in self._rings if name not in _OWN_NAMES]
        return tuple(sorted(own, key=lambda name: (name != "loss", "loss" not in name)))

    @property
    def newest(self) -> tuple[int, float] | None:
        """The newest step and when it ended."""
        return self._times[-1] if self._times else None

    def series(self, name: str, last: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Return the newest steps and values of a name; empty arrays if there are none."""
        ring = self._rings.get(name)
        if ring is None:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        return ring.steps(last), ring.series("value", 0, last)

    def steps_per_second(self) -> float | None:
        """Return the rate over the newest 5 s; None if there are fewer than two steps."""
        if len(self._times) < 2:
            return None
        step, time_s = self._times[-1]
        first_step, first_s = next(
            (s, t) for s, t in self._times if t >= time_s - _RATE_WINDOW_S or s == step
        )
        if step == first_step:
            first_step, first_s = self._times[-2]
        return (step - first_step) / (time_s - first_s) if time_s > first_s else None

    def clear(self) -> None:
        """Remove everything."""
        self._rings.clear()
        self._times.clear()

    def _ring(self, name: str) -> StepRing | None:
        if name not in self._rings and len(self._rings) < _NAMES_LIMIT:
            self._rings[name] = StepRing(("value",), 1, _CAPACITY)
        return self._rings.get(name)
