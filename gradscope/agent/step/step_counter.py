"""The tally: where the training stands, and the steps that need nothing but to be counted.

    before ─▶ the optimizer's step ─▶ after: at rest? count it. Else what the engine does.

It stands between PyTorch's hooks and the engine. Nearly all steps are at rest. Python that runs once in
a step runs on cold caches, and takes longer there than in a loop: so there is a tally in C, which does
the same and is taken where it was built.
"""

import time
import weakref
from collections.abc import Callable
from typing import Any, Final, cast

import torch
from torch.optim import Optimizer

from gradscope.hooks import StepHook, untraced
from gradscope.observe import NO_ACTIVE_MODES, native_module

__all__ = ["StepCounter", "make_step_counter", "sequence_number"]

sequence_number: Final[Callable[[], int]] = torch.autograd._get_sequence_nr  # type: ignore[attr-defined]  # noqa: SLF001 - no public name
"""How many operations autograd has recorded in this thread."""


class StepCounter:
    """The step in progress, and the count of those at rest. `gradscope.native._native.StepCounter` is alike.

    `begin` and `end` are called around an optimizer's step wherever there is more to do than to count.

    Attributes:
        step, began_s, began_at: the step in progress, and when it began: by the clock, and by the count
            of operations that autograd keeps for the thread that trains.
        left: how many more steps end at rest, if nothing comes between.
        looks_at: the step from which on gradients are to be looked at.
        every: one step of so many the tally looks at by itself; 0: it leaves that to `begin`, as this
            one always does.
        is_stirred: whether anything was asked for since it was last looked what there is to do.
        awake: who has something to do in each step.
        optimizer: a weak reference to the one whose step ends a step; None while that is not known.
        spent_s: the time in seconds that was spent on the steps counted.
    """

    def __init__(
        self,
        step: int,
        clock: Callable[[], float],
        sequence_number: Callable[[], int],
        begin: StepHook,
        end: StepHook,
    ) -> None:
        self._clock = clock
        self._sequence_number = sequence_number
        self._begin = begin
        self._end = end
        self._times_s: list[float] = []
        self.step = step
        self.began_s = clock()
        self.began_at = sequence_number()
        self.left = self.looks_at = self.every = 0
        self.is_stirred = False
        self.awake: set[object] = set()
        self.optimizer: weakref.ref[Optimizer] | None = None
        self.spent_s = 0.0

    def is_at_rest(self) -> bool:
        """Whether the step in progress is at rest, and so is the one after it."""
        return self.left > 0 and not self.is_stirred and not self.awake

    @untraced
    def before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:  # as torch says
        """Do nothing where there is nothing to do before an optimizer steps: as PyTorch's hook."""
        is_watched = self.optimizer is not None and self.optimizer() is optimizer
        is_quiet = self.is_at_rest() and self.step < self.looks_at
        if is_quiet and is_watched and len(args) == 1 and not kwargs:
            return None
        return self._begin(optimizer, args, kwargs)

    @untraced
    def after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:  # as torch says
        """Count a step that an optimizer has ended, where that is all: as PyTorch's hook."""
        is_watched = self.optimizer is not None and self.optimizer() is optimizer
        if not is_watched or not self.is_at_rest():
            return self._end(optimizer, args, kwargs)
        self.count()
        return None

    def count(self) -> None:
        """End the step in progress and begin the next."""
        now_s = self._clock()
        self._times_s.append(now_s - self.began_s)
        self.left -= 1
        self.step += 1
        self.began_s = now_s
        self.began_at = self._sequence_number()
        self.spent_s += self._clock() - now_s

    def take(self) -> tuple[list[float], float, int, float]:
        """Return what there is since it was last asked.

        It is: how long each step took that was counted, `spent_s`, how often the tally has looked at
        gradients, and how long that took; in seconds.
        """
        taken = self._times_s, self.spent_s, 0, 0.0
        self._times_s, self.spent_s = [], 0.0
        return taken


def make_step_counter(step: int, begin: StepHook, end: StepHook) -> StepCounter:
    """Return a tally, in C where that was built. `step` begins now."""
    native = native_module()
    if native is None:
        return StepCounter(step, time.perf_counter, sequence_number, begin, end)
    made = native.StepCounter(step, time.perf_counter, sequence_number, begin, end, NO_ACTIVE_MODES)
    return cast("StepCounter", made)
