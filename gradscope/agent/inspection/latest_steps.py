"""`LatestSteps`: the newest observed step and the newest focus step; both are sent to the hub."""

from functools import partial

from gradscope.agent.inspection.step_facts import FactsOfSteps
from gradscope.agent.inspection.step_history import StepHistory
from gradscope.agent.observation.observed_step import ObservedStep, step_message
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.columns import Table
from gradscope.errors import NotMeasuredError
from gradscope.protocol import StepFacts

__all__ = ["LatestSteps"]


class LatestSteps(StepPlugin):
    """Stores and publishes observed steps. Add its plugins to the engine before the plugins that read the steps."""

    name = "publishing observed steps"

    def __init__(self, run: RunContext, engine: StepEngine) -> None:
        self._run = run
        self._facts = FactsOfSteps(run, engine)
        self._latest: ObservedStep | None = None
        self._latest_focus: ObservedStep | None = None
        self._history = StepHistory()
        self._sequence = 0
        self._reason = "a step ends when an optimizer of the model steps, or with scope.mark_step()"

    def plugins(self) -> tuple[StepPlugin, StepPlugin]:
        """Return the plugins to add to the engine."""
        return self._facts, self

    def latest(self) -> Table:
        """Return the newest observed step. Raises NotMeasuredError before the first."""
        if self._latest is None:
            raise NotMeasuredError(f"no step has been observed yet: {self._reason}")
        return self._latest.table(self._run.hello.rank)

    def tables(self) -> list[Table]:
        """Return observed steps of the whole run, oldest first; some are left out in a long run."""
        return [each.table(self._run.hello.rank) for each in self._history.steps]

    def latest_focus(self) -> Table:
        """Return the newest focus step. Raises NotMeasuredError before the first."""
        if self._latest_focus is None:
            raise NotMeasuredError(
                "there has been no focus step yet: scope.focus(…) chooses layers, and focus steps begin "
                "when the cost of observed steps is known"
            )
        return self._latest_focus.table(self._run.hello.rank)

    def no_step_ends(self, reason: str) -> None:
        """Store the reason, for the message of the error."""
        self._reason = reason

    def observed(self, step: ObservedStep) -> None:
        """Store and publish an observed step."""
        self._latest = step
        self._history.add(step)
        self._sequence += 1
        self._publish(step, self._facts.take(step.step))

    def focus_observed(self, step: ObservedStep) -> None:
        """Store and publish a focus step, unless it is empty because its layers did not run."""
        if len(step.block):
            self._latest_focus = step
            self._publish(step)

    def _publish(self, step: ObservedStep, facts: StepFacts | None = None) -> None:
        run = self._run
        make = partial(
            step_message,
            run.hello.run,
            run.hello.rank,
            self._sequence,
            run.publisher.dropped,
            step,
            facts,
        )
        run.publisher.put(make, step.block.nbytes)
