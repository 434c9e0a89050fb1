"""Who has something to do in the steps that come: nearly always nobody, and steps are at rest then."""

import math
import sys
import weakref
from typing import Final

from torch.optim import Optimizer

from gradscope.agent.step.step_counter import StepCounter

__all__ = ["NEVER", "Roll"]

NEVER: Final = sys.maxsize
"""A step that does not come."""


class Roll:
    """Which parts are awake, and in which step the first of the others is to wake by itself.

    And when each optimizer's gradients are to be looked at again. Written by the training's thread;
    `wake`, `look_now` and `stir` by any.
    """

    def __init__(self, tally: StepCounter) -> None:
        self._tally = tally
        self.awake = tally.awake
        self.wakes_at = math.inf
        self._until: dict[object, float] = {}
        self._looks_at: weakref.WeakKeyDictionary[Optimizer, int] = weakref.WeakKeyDictionary()

    def wake(self, part: object) -> None:
        """Let a part be called in each step."""
        self.awake.add(part)

    def rest(self, part: object, until: float) -> None:
        """Let a part rest until a step begins."""
        self.awake.discard(part)
        if until < math.inf or part in self._until:
            self._until[part] = until
            self.wakes_at = min(self._until.values())

    def wake_due(self, step: int) -> None:
        """Wake those whose step has come."""
        if step < self.wakes_at:
            return
        due = [part for part, until in self._until.items() if step >= until]
        for part in due:
            del self._until[part]
        self.awake.update(due)
        self.wakes_at = min(self._until.values(), default=math.inf)

    def is_time_to_look(self, step: int, optimizer: Optimizer) -> bool:
        """Whether an optimizer's gradients are to be looked at in this step."""
        is_counted = self._is_counted(optimizer)
        return step >= (self._tally.looks_at if is_counted else self._looks_at.get(optimizer, 0))

    def look_again(self, step: int, optimizer: Optimizer) -> None:
        """Have them looked at in this step, and not before."""
        if self._is_counted(optimizer):
            self._tally.looks_at = step
        else:
            self._looks_at[optimizer] = step

    def look_every(self, every: int) -> None:
        """Let the tally look by itself, in one step of so many; 0: leave each look to the parts."""
        self._tally.every = every

    def look_now(self) -> None:
        """Have all gradients looked at when an optimizer next steps, by the parts."""
        self._tally.every = self._tally.looks_at = 0
        self._looks_at.clear()

    def stir(self) -> None:
        """Have it looked at the next boundary what there is to do: something was asked for."""
        self._tally.is_stirred = True

    def _is_counted(self, optimizer: Optimizer) -> bool:
        """Whether it is the optimizer whose step ends a step."""
        counted = self._tally.optimizer
        return counted is not None and counted() is optimizer
