"""`LoggedScalars`: values that the script logs, and the duration of every step."""

from collections.abc import Mapping

import torch

from gradscope.agent.link.scalars import ScalarLog
from gradscope.agent.monitors.breakpoints import Breakpoints
from gradscope.agent.monitors.rules import RuleMonitor
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.plugins import StepPlugin

__all__ = ["LoggedScalars"]


class LoggedScalars(StepPlugin):
    """Passes the scalars of each step to the rules, the breakpoints and the publisher."""

    name = "logged scalars"

    def __init__(self, run: RunContext, rules: RuleMonitor, breakpoints: Breakpoints) -> None:
        self._run = run
        self._rules = rules
        self._breakpoints = breakpoints
        self._log = ScalarLog()
        self.names: set[str] = set()
        """The names of all values that were logged."""

    def log(self, values: Mapping[str, float | torch.Tensor]) -> None:
        """Log values in the step in progress. Raises UsageError if a value is not a number."""
        counter = self._run.counter
        self._log.log(values, counter.step)
        self.names.update(values)
        counter.left = 0  # the step counter must not end this step without `ended`

    def ended(self, step: int, time_s: float, step_time_s: float) -> None:
        """Report the scalars of the steps whose values are on the host."""
        publisher = self._run.publisher
        if self._log.is_empty and not self._breakpoints.are_set:  # most steps
            publisher.put_scalars(step, time_s, {"step_time_s": step_time_s})
            return
        self._log.end_step(step, time_s, step_time_s)
        for row in self._log.ready():
            if len(row[2]) > 1:  # more than the time of the step
                self._rules.on_scalars(row[0], row[2])
            self._breakpoints.on_scalars(row[0], row[2])
            publisher.put_scalars(*row)
