"""`LoggedScalars`: values that the script logs, the duration of every step, and the optimizers' numbers.

In observed steps these are the least and the greatest learning rate and the greatest weight decay of all parameter
groups. A number that is on a device is left out.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from gradscope.agent.flight_recorder.recorder import FlightRecorder
from gradscope.agent.link.scalars import ScalarLog
from gradscope.agent.monitors.breakpoints import Breakpoints
from gradscope.agent.monitors.rules import RuleMonitor
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.plugins import StepPlugin
from gradscope.rules import GREATEST_RATE, LEAST_RATE, WEIGHT_DECAY

__all__ = ["LoggedScalars"]


class LoggedScalars(StepPlugin):
    """Passes the scalars of each step to the rules, the breakpoints and the publisher."""

    name = "logged scalars"
    needs_observed = True

    def __init__(
        self,
        run: RunContext,
        rules: RuleMonitor,
        breakpoints: Breakpoints,
        recorder: FlightRecorder,
    ) -> None:
        self._run = run
        self._recorder = recorder
        self._rules = rules
        self._breakpoints = breakpoints
        self._log = ScalarLog()
        self.names: set[str] = set()
        """The names of all values that the script has logged."""
        self._is_late: dict[tuple[str, ...], bool] = {}
        """Whether the script logs these names after the optimizer's step."""
        self._rates: list[float] = []
        self._decays: list[float] = []

    def log(self, values: Mapping[str, float | torch.Tensor]) -> None:
        """Log the script's values in the step in progress. Raises UsageError if a value is not a number.

        Between an optimizer's step and the next forward they belong to the step that has ended.
        """
        counter = self._run.counter
        is_late, names = self._recorder.is_between_steps, tuple(values)
        if is_late is None:  # unknown: as it was when it was known
            is_late = self._is_late.get(names, False)
        self._is_late[names] = is_late
        if is_late and counter.step > self._run.settings.start_step:
            self._log.log(values, counter.step - 1)
            counter.left = 0  # the next step must call `ended`, which reports this one
            self._report_ready()
        else:
            self.log_own(values)
        self.names.update(values)

    def log_own(self, values: Mapping[str, float | torch.Tensor]) -> None:
        """Log values that gradscope has found out."""
        counter = self._run.counter
        self._log.log(values, counter.step)
        counter.left = 0  # the step counter must not end this step without `ended`

    def next_active_step(self, step: int) -> None:
        """Return None: nothing but observed steps is needed."""

    def begin(self, step: int, *, is_observed: bool) -> None:  # noqa: ARG002 - as above
        """Forget the numbers of the optimizers of the previous observed step."""
        self._rates.clear()
        self._decays.clear()

    def before_optimizer(self, optimizer: Optimizer) -> None:
        """Log the learning rates and the weight decay of an optimizer."""
        self._rates += [
            rate for group in optimizer.param_groups if (rate := _number(group, "lr")) is not None
        ]
        self._decays += [
            decay
            for group in optimizer.param_groups
            if (decay := _number(group, "weight_decay")) is not None
        ]
        if self._rates:
            self.log_own({GREATEST_RATE: max(self._rates), LEAST_RATE: min(self._rates)})
        if self._decays:
            self.log_own({WEIGHT_DECAY: max(self._decays)})

    def ended(self, step: int, time_s: float, step_time_s: float) -> None:
        """Report the scalars of the steps whose values are on the host."""
        publisher = self._run.publisher
        if self._log.is_empty and not self._breakpoints.are_set:  # most steps
            self._log.ended_step = step
            publisher.put_scalars(step, time_s, {"step_time_s": step_time_s})
            return
        self._log.end_step(step, time_s, step_time_s)
        self._report_ready()

    def _report_ready(self) -> None:
        for row in self._log.ready():
            if row[2].keys() != {"step_time_s"}:
                self._rules.on_scalars(row[0], row[2], self._recorder.batches)
            self._breakpoints.on_scalars(row[0], row[2])
            self._run.publisher.put_scalars(*row)


def _number(group: dict[str, Any], name: str) -> float | None:  # Any: as torch's own
    value = group.get(name)
    if isinstance(value, torch.Tensor):
        return float(value) if value.device.type == "cpu" and value.numel() == 1 else None
    return float(value) if isinstance(value, int | float) else None
