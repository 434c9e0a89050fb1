"""`StepEnd`: which optimizer step is the last one of a training step.

Consecutive optimizer steps without a forward of the model between them belong to one step. So a step ends

- at once, if the optimizers that have stepped hold all trainable parameters of the model;
- otherwise before the next forward with gradients, or earlier if the script reads the scope, or if an
  optimizer steps again outside a backward pass.

If an optimizer was given to `attach`, a step does not end before that one has stepped.
"""

import weakref

from torch.optim import Optimizer

from gradscope.agent.run.step_counter import StepCounter, sequence_number
from gradscope.hooks import OptimizerHook, has_compiled, is_in_backward

__all__ = ["StepEnd"]


class StepEnd:
    """Records the optimizers that step, and decides whether the step in progress is complete.

    Attributes:
        is_late: whether the newest optimizer has stepped directly after the end of the step to which it
            belongs. It is not measured then; the next step of this kind waits for it.
    """

    def __init__(self, counter: StepCounter, optimizers: OptimizerHook) -> None:
        self._counter = counter
        self._optimizers = optimizers
        self._step = self._ended_step = -1
        self._operations = 0
        self._newest: weakref.ref[Optimizer] | None = None
        self._stepped: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._previous: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._last_ones: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self._followed: weakref.WeakSet[Optimizer] = weakref.WeakSet()
        self.is_late = False

    @property
    def has_stepped(self) -> bool:
        """Whether an optimizer has stepped in the step in progress."""
        self._add_led()
        return self._step == self._counter.step and bool(self._stepped)

    @property
    def may_end(self) -> bool:
        """Whether a forward ends the step: an optimizer has stepped, the given one if there is one."""
        optimizers = self._optimizers
        has_given = optimizers.given is None or any(map(optimizers.is_given, self._stepped))
        return self.has_stepped and has_given

    @property
    def may_end_before_forward(self) -> bool:
        """Whether the step may end now: no backward pass is running and no other optimizer is expected."""
        return self.may_end and not is_in_backward() and self._newest_one() not in self._followed

    def is_repeated(self, optimizer: Optimizer) -> bool:
        """Return whether an optimizer that is about to step has stepped in this step already, and begins another.

        In a backward pass, one optimizer can step for each parameter.
        """
        self._add_led()
        if self._step != self._counter.step or optimizer not in self._stepped or not self.may_end:
            return False
        return not is_in_backward() or sequence_number() != self._operations

    def begin_optimizer(self, optimizer: Optimizer) -> None:
        """Record that an optimizer is about to step."""
        counter = self._counter
        self._add_led()
        self._begin_step()
        is_first = not self._stepped
        is_next = is_first and bool(self._previous) and sequence_number() == counter.began_at
        self.is_late = is_next and optimizer not in self._previous
        if (self.is_late or not is_first) and not is_in_backward():
            is_known = not is_first or self._ended_step == counter.step - 1
            before = self._newest_one() if is_known else self._last_one()
            if before is not None and before is not optimizer:
                self._followed.add(before)
                counter.leading = tuple(weakref.ref(each) for each in self._followed)
                if self._last_one() is before:
                    counter.optimizer = None

    def end_optimizer(self, optimizer: Optimizer) -> None:
        """Record that an optimizer has stepped. If it began before `attach`, as with a closure, its end counts."""
        self._operations = sequence_number()
        self._add_led()
        self._begin_step()
        if self.is_late:
            self._previous.add(optimizer)
        else:
            self._stepped.add(optimizer)
            self._newest = weakref.ref(optimizer)

    def is_complete(self) -> bool:
        """Return whether the step ends now: the optimizers that have stepped hold all trainable parameters."""
        if not self.may_end_before_forward:
            return False
        if has_compiled():  # a compiled forward calls no hook
            return self._previous <= self._stepped
        optimizers = self._optimizers
        return any(map(optimizers.is_foreign, self._stepped)) or optimizers.are_all_held(self._stepped)

    def is_usual_end(self, optimizer: Optimizer) -> bool:
        """Return whether this optimizer is usually the last one that steps in a training step.

        No other optimizer has stepped after it in the same training step, and it does not step in backward.
        """
        is_known = optimizer in self._last_ones and optimizer not in self._followed
        return is_known and not is_in_backward()

    def needs_forward(self, optimizer: Optimizer, *, is_idle: bool) -> bool:
        """Return whether a step that is not complete must end before the next forward.

        In an idle step after which another optimizer usually follows, that one ends the step.
        """
        is_followed = is_idle and optimizer in self._followed
        return not is_followed and self.may_end and not has_compiled()

    def end(self) -> None:
        """End the step in progress."""
        self._add_led()
        newest, counter = self._newest_one(), self._counter
        if newest is None or not self.has_stepped:
            return
        self._ended_step = counter.step
        self._previous = weakref.WeakSet(self._stepped)
        self._stepped.clear()
        self._last_ones.add(newest)
        counted = self._last_one()
        if counted is None or not self.is_usual_end(counted):
            counter.optimizer = weakref.ref(newest)

    def _begin_step(self) -> None:
        if self._step != self._counter.step:
            self._step = self._counter.step
            self._stepped.clear()

    def _add_led(self) -> None:
        """Add the optimizers that have stepped in this step and for which the counter called nothing."""
        for reference in self._counter.led:
            optimizer = reference()
            if optimizer is not None:
                self._begin_step()
                self._stepped.add(optimizer)
                self._newest = reference
        self._counter.led.clear()

    def _newest_one(self) -> Optimizer | None:
        return None if self._newest is None else self._newest()

    def _last_one(self) -> Optimizer | None:
        """Return the optimizer whose step the counter counts as the end of a step."""
        return None if self._counter.optimizer is None else self._counter.optimizer()
