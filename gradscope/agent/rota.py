"""Which gradients the sentinel looks at in a step, where all of them at once would cost too much.

All of memory must be read to know that it is finite. Where a step is short beside its parameters (tiny
batches), that alone would take the whole budget. Then the small gradients (biases, norms) are looked at
in every step, and the large ones by turns. A NaN or an infinity that comes on its way back reaches
the biases in the same step; one that arises in a large gradient alone has all parameters by the next.
"""

import math
from collections.abc import Sequence
from typing import Final

from torch import nn

__all__ = ["Rota"]

_SHARE: Final = 0.25
"""This part of the budget is the sentinel's, where it has not enough with less."""

_SMALL: Final = 1024
"""Elements of a gradient that is looked at in every step."""

_MOST_TURNS: Final = 32
_MEMORY: Final = 0.1
_FIRST: Final = 5
"""Steps in which all is looked at, before it is known what that costs."""


class Rota:
    """Chooses gradients to look at. `budget` is that of all observing; None: all, always.

    `turns`: in so many steps all have been looked at. Parts are by elements.
    """

    def __init__(self, budget: float | None) -> None:
        self._share = None if budget is None else _SHARE * budget
        self._seen = 0
        self._whole_s = self._step_s = 0.0
        self._sizes: list[int] = []
        self._small: list[int] = []
        self._large: list[int] = []
        self._chosen: dict[tuple[int, int], tuple[tuple[int, ...], float]] = {}
        self.turns = 1

    def choose(self, parameters: list[nn.Parameter], step: int) -> tuple[list[nn.Parameter], float]:
        """Return those whose gradients are to be looked at in a step, and what part of all that is."""
        if self.turns == 1:
            return parameters, 1.0
        if len(parameters) != len(self._sizes):
            self._sort(parameters)
        turn = step % self.turns, self.turns
        if turn not in self._chosen:
            self._chosen[turn] = self._places(*turn)
        places, part = self._chosen[turn]
        return [parameters[place] for place in places], part

    def learn(self, spent_s: float, step_time_s: float, part: float) -> None:
        """Learn from a step in which that part of all gradients was looked at, in `spent_s`."""
        if self._share is None or not 0 < part <= 1:
            return
        weight = _MEMORY if self._seen else 1.0
        self._seen += 1
        self._whole_s += weight * (spent_s / part - self._whole_s)
        self._step_s += weight * (step_time_s - self._step_s)
        if self._seen > _FIRST:
            allowed_s = self._share * self._step_s
            wanted = math.ceil(self._whole_s / allowed_s) if allowed_s > 0 else _MOST_TURNS
            self.turns = min(max(wanted, 1), _MOST_TURNS)

    def _places(self, turn: int, turns: int) -> tuple[tuple[int, ...], float]:
        places = (*self._small, *self._large[turn::turns])
        return places, sum(self._sizes[place] for place in places) / max(sum(self._sizes), 1)

    def _sort(self, parameters: Sequence[nn.Parameter]) -> None:
        self._chosen.clear()
        self._sizes = [parameter.numel() for parameter in parameters]
        self._small = [place for place, size in enumerate(self._sizes) if size <= _SMALL]
        self._large = [place for place, size in enumerate(self._sizes) if size > _SMALL]
