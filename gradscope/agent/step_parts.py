"""What takes part in each step beside measuring: a part overrides what it needs, the engine calls it.

    at_boundary │ begin ─▶ … ─▶ before_optimizer │ the step │ after_optimizer ─▶ end │ at_boundary …

All calls come from the training's own threads. A part that raises is switched off and counted; neither
the training nor the other parts notice.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch.optim import Optimizer

from gradscope.agent.faults import Faults
from gradscope.agent.measurement import FinishedStep
from gradscope.hooks import hidden_from_modes

__all__ = ["StepPart", "StepParts"]


class StepPart:
    """One part. `name` says in a fault what was switched off."""

    name = "a part of the step"

    def at_boundary(self, step: int) -> None:
        """Act between two steps, before `step` begins and interventions settle. It may wait."""

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Act at the beginning of a step, when it is settled what is in force in it."""

    def before_optimizer(self, optimizer: Optimizer) -> None:
        """Act before an optimizer of the model steps; its gradients have been measured."""

    def after_optimizer(self, optimizer: Optimizer) -> None:
        """Act after an optimizer of the model has stepped; updates have been measured."""

    def end(self, step: int, step_time_s: float, *, is_observed: bool) -> None:
        """Act at the end of a step; its statistics may still be on their way from the device."""

    def observed(self, finished: FinishedStep) -> None:
        """Take the statistics of an observed step, when they have come; steps come in order."""

    def close(self) -> None:
        """Take off all hooks and end all waiting: the scope is being detached. Called once."""


class StepParts:
    """The parts of one run, called in the order in which they were added."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._parts: tuple[StepPart, ...] = ()

    def add(self, part: StepPart) -> None:
        """Let a part take part from now on."""
        self._parts = (*self._parts, part)

    def each(self, call: Callable[[StepPart], None]) -> None:
        """Make one call to every part."""
        for part in self._parts:
            with self._guarded(part):
                call(part)

    def observed(self, finished: FinishedStep) -> None:
        """Hand an observed step to every part."""
        self.each(lambda part: part.observed(finished))

    def close(self) -> None:
        """Close all parts; there are none afterwards."""
        parts, self._parts = self._parts, ()
        for part in parts:
            with self._guarded(part):
                part.close()

    @contextmanager
    def _guarded(self, part: StepPart) -> Iterator[None]:
        try:
            with hidden_from_modes():
                yield
        except Exception as error:  # noqa: BLE001 - ours must not become the training's
            self._parts = tuple(each for each in self._parts if each is not part)
            self._faults.report(part.name, error, "This part is switched off; training goes on.")
