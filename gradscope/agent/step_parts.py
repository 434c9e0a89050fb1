"""What takes part in each step beside measuring: a part overrides what it needs, the engine calls it.

    at_boundary │ begin ─▶ … ─▶ before_optimizer │ the step │ after_optimizer ─▶ end │ at_boundary …

All calls come from the training's own threads. A part that raises is switched off and counted; neither
the training nor the other parts notice. Only an AlertError goes on: the training asked for it.
"""

from collections.abc import Callable

from torch.optim import Optimizer

from gradscope.agent.faults import Faults
from gradscope.agent.measurement import FinishedStep
from gradscope.errors import AlertError

__all__ = ["StepPart", "StepParts"]


class StepPart:
    """One part. `name` says in a fault what was switched off."""

    name = "a part of the step"

    def at_boundary(self, step: int) -> None:
        """Act between two steps, before `step` begins and interventions settle. It may wait."""

    def before_settle(self, step: int) -> None:
        """Act before interventions settle for `step`: at its boundary, or while it has not computed."""

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
    """The parts of one run, called in the order in which they were added.

    Only those are called that override what is called, so that a part costs nothing where it does
    nothing: unobserved steps are to be nearly free. For the same reason the engine hides all calls of a
    step's end from the user's modes at once, and not here each by itself.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._parts: list[StepPart] = []
        self._overriding: dict[str, tuple[tuple[StepPart, Callable[..., None]], ...]] = {}
        self._sort()

    def add(self, part: StepPart) -> None:
        """Let a part take part from now on."""
        self._parts.append(part)
        self._sort()

    def call(self, name: str, *args: object, **keywords: object) -> None:
        """Call the method of this name of every part that overrides it."""
        for part, method in self._overriding[name]:
            try:
                method(*args, **keywords)
            except AlertError:
                raise  # a rule was told to: it is the training's
            except Exception as error:  # noqa: BLE001 - ours must not become the training's
                self._drop(part, error)

    def close(self) -> None:
        """Close all parts; there are none afterwards."""
        self.call("close")
        self._parts.clear()
        self._sort()

    def _drop(self, part: StepPart, error: Exception) -> None:
        if part in self._parts:
            self._parts.remove(part)
            self._sort()
        self._faults.report(part.name, error, "This part is switched off; training goes on.")

    def _sort(self) -> None:
        self._overriding = {
            name: tuple(
                (part, getattr(part, name))
                for part in self._parts
                if getattr(type(part), name) is not getattr(StepPart, name)
            )
            for name in _CALLS
        }


_CALLS = tuple(name for name, member in vars(StepPart).items() if callable(member))
