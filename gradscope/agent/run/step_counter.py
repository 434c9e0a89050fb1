"""`StepCounter`: counts steps in PyTorch's optimizer hooks, with a fast path for idle steps.

    before ─▶ the optimizer's step ─▶ after: an idle step is counted; otherwise the step engine is called

Most steps are idle. Python code that runs once per step finds cold caches and is slower than in a
loop, so there is a version in C (`gradscope/native/step_counter.c`), which is used if it was built.
"""

import time
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import torch
from torch.optim import Optimizer

from gradscope.hooks import StepHook, untraced
from gradscope.observe import NO_ACTIVE_MODES, native_module

__all__ = ["StepCounter", "make_step_counter", "sequence_number"]

sequence_number: Final[Callable[[], int]] = torch.autograd._get_sequence_nr  # type: ignore[attr-defined]  # noqa: SLF001 - no public name
"""Return the number of operations that autograd has recorded in this thread."""


class StepCounter:
    """Counts steps. `gradscope.native._native.StepCounter` is the version in C.

    Attributes:
        step: the step in progress.
        began_s: when the step began, in seconds of the clock.
        began_at: when the step began, as autograd's operation count of the training thread.
        left: how many more steps may end as idle steps.
        must_plan: whether the plugins must be asked for their next step again. Any thread may set it.
        checks_at: the next step in which gradients are checked.
        check_every: the counter itself checks gradients in every `check_every`-th step; 0: `on_begin`
            checks them always. The version in Python never checks gradients itself.
        optimizer: a weak reference to the optimizer whose step ends a step; None while unknown.
        leading: weak references to the optimizers that usually step before that one in the same step. In an
            idle step, nothing needs to be done for them but the check of their gradients.
        led: those of `leading` that have stepped in this step without a call of `on_begin` and `on_end`.
        on_begin, on_end: called before and after an optimizer's step that is not idle; None: no call.
        spent_s: seconds spent in the counted steps.
    """

    def __init__(
        self, step: int, clock: Callable[[], float], sequence_number: Callable[[], int]
    ) -> None:
        self._clock = clock
        self._sequence_number = sequence_number
        self._times_s: list[float] = []
        self.step = step
        self.began_s = clock()
        self.began_at = sequence_number()
        self.left = self.checks_at = self.check_every = 0
        self.must_plan = False
        self.optimizer: weakref.ref[Optimizer] | None = None
        self.leading: tuple[weakref.ref[Optimizer], ...] = ()
        self.led: list[weakref.ref[Optimizer]] = []
        self.on_begin: StepHook | None = None
        self.on_end: StepHook | None = None
        self.spent_s = 0.0

    def is_idle(self) -> bool:
        """Return whether the step in progress and the next one are idle."""
        return self.left > 0 and not self.must_plan

    @untraced
    def before(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:  # as torch says
        """PyTorch's hook before an optimizer steps."""
        is_quiet = self.is_idle() and self.step < self.checks_at
        if is_quiet and len(args) == 1 and not kwargs:
            if self._is_counted(optimizer):
                return None
            leading = _find(self.leading, optimizer)
            if leading is not None and _find(self.led, optimizer) is None:
                self.led.append(leading)
                return None
        return None if self.on_begin is None else self.on_begin(optimizer, args, kwargs)

    @untraced
    def after(self, optimizer: Optimizer, args: Any, kwargs: Any) -> Any:  # as torch says
        """PyTorch's hook after an optimizer has stepped."""
        if self.is_idle() and _find(self.led, optimizer) is not None:
            return None
        if not self.is_idle() or not self._is_counted(optimizer):
            return None if self.on_end is None else self.on_end(optimizer, args, kwargs)
        self.count()
        return None

    def count(self) -> None:
        """End the step in progress and begin the next."""
        now_s = self._clock()
        self._times_s.append(now_s - self.began_s)
        self.left -= 1
        self.step += 1
        self.began_s = now_s
        self.led.clear()
        self.began_at = self._sequence_number()
        self.spent_s += self._clock() - now_s

    def take(self) -> tuple[list[float], float, int, float]:
        """Return the counts since the last call, with times in seconds.

        The result is: the duration of each counted step, `spent_s`, the number of steps in which the
        counter checked gradients, and the time of these checks.
        """
        taken = self._times_s, self.spent_s, 0, 0.0
        self._times_s, self.spent_s = [], 0.0
        return taken

    def _is_counted(self, optimizer: Optimizer) -> bool:
        return self.optimizer is not None and self.optimizer() is optimizer


def _find(
    references: Sequence[weakref.ref[Optimizer]], optimizer: Optimizer
) -> weakref.ref[Optimizer] | None:
    return next((each for each in references if each() is optimizer), None)


def make_step_counter(step: int) -> StepCounter:
    """Return a counter, in C if it was built. `step` is the first step in progress."""
    native = native_module()
    if native is None:
        return StepCounter(step, time.perf_counter, sequence_number)
    made = native.StepCounter(step, time.perf_counter, sequence_number, NO_ACTIVE_MODES)
    return cast("StepCounter", made)
