"""Which gradients the sentinel looks at in a step, where all of them in every step would cost too much.

    all, always ──too dear──▶ large ones by turns ──still too dear──▶ all at once, every few steps

All of memory must be read to know that it is finite. Where a step is short beside its parameters (tiny
batches), that alone would take the whole budget. Then the small gradients (biases, norms) are looked at
in every step, and the large ones by turns. A NaN or an infinity that comes on its way back reaches
the biases in the same step; one that arises in a large gradient alone has all parameters by the next.

Where a step is so short that to ask each parameter for its gradient takes too long, turns gain nothing:
then some steps are passed over.
"""

import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Literal

from torch import nn

__all__ = ["CheckSchedule"]

_SHARE: Final = 0.25
"""This part of the budget is the sentinel's, where it has not enough with less."""

_SMALL: Final = 1024
"""Elements of a gradient that is looked at in every step."""

_MOST_TURNS: Final = 32
_MEMORY: Final = 5
"""What looking costs is the middle of so many of the newest."""

_NEEDED: Final = 2
"""So much is to be known of what it costs before anything changes."""

_TOO_DEAR: Final = 1.25
"""Turns that cost so many times what is allowed gain too little."""

_CHEAP: Final = 0.8
"""All is looked at again where that takes this part of what is allowed."""


class CheckSchedule:
    """Chooses gradients to look at. `budget` is that of all observing; None: all, always.

    `pace_s()`: how long a step takes at present, in seconds; 0 while that is not known. `turns`: in so
    many steps all have been looked at. Parts are by elements.
    """

    def __init__(self, budget: float | None, pace_s: Callable[[], float]) -> None:
        self._share = None if budget is None else _SHARE * budget
        self._pace_s = pace_s
        self._way: Literal["always", "by turns", "at times"] = "always"
        self._whole_s = 0.0
        self._looks_s: deque[float] = deque(maxlen=_MEMORY)
        self._chosen: dict[tuple[int, int, int], tuple[tuple[int, ...], float]] = {}
        self.turns = 1

    @property
    def every(self) -> int:
        """One step of so many is looked at."""
        return self.turns if self._way == "at times" else 1

    @property
    def is_whole(self) -> bool:
        """Whether all is looked at where anything is."""
        return self._way != "by turns"

    @property
    def words(self) -> str:
        """What is not looked at in every step; empty where all is."""
        what = {"always": "", "by turns": "large gradients are", "at times": "gradients are"}[self._way]
        return f"{what} looked at every {self.turns} steps, to keep to the budget" if what else ""

    def choose(self, parameters: list[nn.Parameter], step: int) -> tuple[list[nn.Parameter], float]:
        """Return those whose gradients are to be looked at in a step, and what part of all that is."""
        if self._way != "by turns":
            return parameters, 1.0
        turn = len(parameters), step % self.turns, self.turns
        if turn not in self._chosen:
            self._chosen[turn] = _places([parameter.numel() for parameter in parameters], *turn[1:])
        places, part = self._chosen[turn]
        return [parameters[place] for place in places], part

    def learn(self, look_s: float, part: float) -> None:
        """Learn from looks at that part of all gradients, which took so long in each step with any."""
        if self._share is None or part <= 0:
            return
        self._looks_s.append(look_s)
        allowed_s = self._share * self._pace_s()
        if len(self._looks_s) < _NEEDED or allowed_s <= 0:
            return
        cost_s = statistics.median_low(self._looks_s)
        if self._way != "by turns":
            self._whole_s = cost_s
        if self._whole_s <= allowed_s * (1.0 if self._way == "always" else _CHEAP):
            self._go("always", 1)
            return
        turns = min(math.ceil(self._whole_s / allowed_s), _MOST_TURNS)
        is_too_dear = self._way == "by turns" and cost_s > _TOO_DEAR * allowed_s
        self._go("at times" if is_too_dear or self._way == "at times" else "by turns", max(turns, 2))

    def _go(self, way: Literal["always", "by turns", "at times"], turns: int) -> None:
        if way != self._way or (way == "by turns" and turns != self.turns):
            self._looks_s.clear()
        self._way, self.turns = way, turns


def _places(sizes: Sequence[int], turn: int, turns: int) -> tuple[tuple[int, ...], float]:
    """Return the places whose turn it is, and their part of all elements."""
    small = [place for place, size in enumerate(sizes) if size <= _SMALL]
    large = [place for place, size in enumerate(sizes) if size > _SMALL]
    places = (*small, *large[turn::turns])
    return places, sum(sizes[place] for place in places) / max(sum(sizes), 1)
