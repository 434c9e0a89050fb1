"""What takes part in each step beside measuring: a part overrides what it needs, the engine calls it.

    at_boundary │ begin ─▶ … ─▶ look, before_optimizer │ the step │ after_optimizer ─▶ end │ …

Nearly all parts have nothing to do in nearly all steps: one that says that it `rest`s is not called,
until it `wake`s. Where all rest, a step that is not observed costs very little.

All calls come from the training's own threads. A part that raises is switched off and counted; neither
the training nor the other parts notice. Only an AlertError goes on: the training asked for it.
"""

import math
from collections.abc import Callable
from typing import Final

from torch.optim import Optimizer

from gradscope.agent.observation.measurement import FinishedStep
from gradscope.agent.run.faults import Faults
from gradscope.agent.step.wakeups import NEVER, Roll
from gradscope.errors import AlertError

__all__ = ["StepPlugin", "StepPlugins"]


class StepPlugin:
    """One part. `name` says in a fault what was switched off.

    `look`, `looked`, `observed` and `close` are called whether it rests or not; all else only while it
    is awake, or where it `needs_observed` and the step is. It is awake at first.
    """

    name = "a part of the step"
    needs_observed = False
    _roll: Roll | None = None

    def join(self, roll: Roll) -> None:
        """Take part, awake."""
        self._roll = roll
        self.wake()

    def leave(self) -> None:
        """Take part no longer."""
        self.rest()
        self._roll = None

    def wake(self) -> None:
        """Be called in all steps, from the next call on. From any thread."""
        if self._roll is not None:
            self._roll.wake(self)

    def rest(self, until: float = math.inf) -> None:
        """Be called no more, until one step begins or it wakes. In the training's thread."""
        if self._roll is not None:
            self._roll.rest(self, until)

    def rest_unless(self, is_needed: Callable[[], object]) -> None:
        """Rest where nothing is to be done. What another thread asks for meanwhile is not missed."""
        self.rest()
        if is_needed():
            self.wake()

    def look_now(self) -> None:
        """Have `look` be called when an optimizer next steps. From any thread."""
        if self._roll is not None:
            self._roll.look_now()

    def look_every(self, every: int) -> None:
        """Have one step of so many looked at without a call, where all is well; 0: none."""
        if self._roll is not None:
            self._roll.look_every(every)

    def at_boundary(self, step: int) -> None:
        """Act between two steps, before `step` begins and interventions settle. It may wait."""

    def before_settle(self, step: int) -> None:
        """Act before interventions settle for `step`: at its boundary, or while it has not computed."""

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Act at the beginning of a step, when it is settled what is in force in it."""

    def look(self, step: int, optimizer: Optimizer) -> int:  # noqa: ARG002 - a part's signature
        """Act before an optimizer of the model steps, and before all other parts.

        Return the step in which it is to be called next for this optimizer.
        """
        return NEVER

    def looked(self, looks: int, looked_s: float) -> None:
        """Take how many looks were made without a call, and how long all of them took, in seconds."""

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


class StepPlugins:
    """The parts of one run, called in the order in which they were added.

    Only those are called that override what is called. The engine hides all calls of a step's end from
    the user's modes at once, and not here each by itself.
    """

    def __init__(self, faults: Faults, roll: Roll) -> None:
        self._faults = faults
        self._roll = roll
        self._parts: list[StepPlugin] = []
        self._is_observed = False
        self._overriding: dict[str, tuple[tuple[StepPlugin, Callable[..., object]], ...]] = {}
        self._sort()

    def add(self, part: StepPlugin) -> None:
        """Let a part take part from now on."""
        self._parts.append(part)
        self._sort()
        if any(part is each for name in _UNLESS_AT_REST for each, _ in self._overriding[name]):
            part.join(self._roll)

    def at_boundary(self, step: int) -> None:
        """Come to the boundary before `step`: those wake that are to."""
        self._roll.wake_due(step)
        self.call("at_boundary", step)

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Begin a step: in an observed one those are called, too, that need it."""
        self._is_observed = is_observed
        self.call("begin", step, is_observed=is_observed)

    def look(self, step: int, optimizer: Optimizer) -> None:
        """Have an optimizer's gradients looked at, where it is time to."""
        if self._roll.is_time_to_look(step, optimizer):
            again = [self._call(part, look, step, optimizer) for part, look in self._overriding["look"]]
            steps = [step for step in again if isinstance(step, int)]
            self._roll.look_again(min(steps, default=NEVER), optimizer)

    def looked(self, looks: int, looked_s: float) -> None:
        """Tell of looks that were made without a call."""
        for part, looked in self._overriding["looked"]:
            self._call(part, looked, looks, looked_s)

    def call(self, name: str, *args: object, **keywords: object) -> None:
        """Call the method of this name of every part that is to be called in this step."""
        if not self._roll.awake and not self._is_observed:
            return
        for part, method in self._overriding[name]:
            if part in self._roll.awake or (self._is_observed and part.needs_observed):
                self._call(part, method, *args, **keywords)

    def observed(self, finished: FinishedStep) -> None:
        """Give every part an observed step."""
        for part, observed in self._overriding["observed"]:
            self._call(part, observed, finished)

    def close(self) -> None:
        """Close all parts; there are none afterwards."""
        for part, close in self._overriding["close"]:
            self._call(part, close)
        self._parts.clear()
        self._roll.awake.clear()
        self._sort()

    def _call(
        self, part: StepPlugin, method: Callable[..., object], *args: object, **keywords: object
    ) -> object:
        try:
            return method(*args, **keywords)
        except AlertError:
            raise  # a rule was told to: it is the training's
        except Exception as error:  # noqa: BLE001 - ours must not become the training's
            self._drop(part, error)
            return None

    def _drop(self, part: StepPlugin, error: Exception) -> None:
        if part in self._parts:
            self._parts.remove(part)
            self._sort()
        part.leave()
        self._faults.report(part.name, error, "This part is switched off; training goes on.")

    def _sort(self) -> None:
        self._overriding = {
            name: tuple(
                (part, getattr(part, name))
                for part in self._parts
                if getattr(type(part), name) is not getattr(StepPlugin, name)
            )
            for name in (*_ALWAYS, *_UNLESS_AT_REST)
        }


_ALWAYS: Final = ("look", "looked", "observed", "close")
_UNLESS_AT_REST: Final = (
    "at_boundary",
    "before_settle",
    "begin",
    "before_optimizer",
    "after_optimizer",
    "end",
)
