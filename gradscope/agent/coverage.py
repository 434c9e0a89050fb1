"""`CoverageMonitor`: counts the checked steps, and reports what cannot be checked in this run and why."""

import time
from functools import partial
from typing import Final

from gradscope.agent.diagnosis.monitor import FindingMonitor
from gradscope.agent.flight_recorder.recorder import FlightRecorder
from gradscope.agent.monitors.logged_scalars import LoggedScalars
from gradscope.agent.monitors.nan_check_schedule import CheckSchedule
from gradscope.agent.observation.observed_step import ObservedStep
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.findings import Checked, NotChecked
from gradscope.hooks import has_compiled
from gradscope.protocol import Event
from gradscope.rules import is_loss

__all__ = ["CoverageMonitor"]

_ENOUGH: Final = 5
"""Steps after which something that has not been seen is reported as missing: those of a round of checks."""

_GROWTH: Final = 1.25
"""The next report comes after this many times as many steps: some 60 reports in a million steps."""

_COMPARED_EVERY: Final = 8
"""Observed steps between two comparisons with what was sent, after the first ten."""

_NAMED: Final = 3


class CoverageMonitor(StepPlugin):
    """Sends what the checks have covered: at growing intervals, if it changes, and at the end of the run."""

    name = "what was checked"

    def __init__(
        self,
        run: RunContext,
        engine: StepEngine,
        findings: FindingMonitor,
        scalars: LoggedScalars,
        schedule: CheckSchedule,
        recorder: FlightRecorder,
    ) -> None:
        self._run = run
        self._engine = engine
        self._findings = findings
        self._scalars = scalars
        self._schedule = schedule
        self._recorder = recorder
        self._observed = self._first = self._every = 0
        self._no_step = self._no_update_reason = ""
        self._has_optimizer = False
        self._sent = Checked()
        self._sends_at = 1

    @property
    def checked(self) -> Checked:
        """What was checked so far."""
        return Checked(
            steps=self._steps,
            observed=self._observed,
            first=self._first,
            every=self._every,
            not_checked=tuple(self._not_checked()),
        )

    @property
    def _steps(self) -> int:
        """The number of steps that have ended."""
        return self._engine.step - self._run.settings.start_step

    def observed(self, step: ObservedStep) -> None:
        """Count an observed step."""
        self._observed += 1
        self._every = step.every
        if step.step == self._run.settings.start_step + self._first:
            self._first += 1
        is_compared = self._observed <= 2 * _ENOUGH or self._observed % _COMPARED_EVERY == 0
        if self._steps >= self._sends_at or (
            is_compared and self._not_checked() != [*self._sent.not_checked]
        ):
            self._send()

    def no_step_ends(self, reason: str) -> None:
        """Report that nothing can be checked."""
        self._no_step = reason
        self._send()

    def close(self) -> None:
        """Send the final state."""
        self._send()

    def _send(self) -> None:
        if self._run.hello.rank:  # the first rank logs the loss, and all ranks observe the same steps
            return
        self._sent = checked = self.checked
        self._sends_at = int(_GROWTH * checked.steps) + 1
        self._run.publisher.put_and_send(partial(self._event, checked, self._engine.step))

    def _not_checked(self) -> list[NotChecked]:
        if self._no_step:
            return [NotChecked("anything", self._no_step)]
        gaps = [
            NotChecked(part, "failed with an error of gradscope") for part in self._run.faults.failed
        ]
        if self._schedule.words:
            gaps.append(NotChecked("gradients for NaN in all steps", self._schedule.words))
        if self._recorder.words:
            gaps.append(NotChecked("the origin of a NaN in all steps", self._recorder.words))
        if self._steps < _ENOUGH:
            return gaps
        gaps += self._of_losses() + self._of_updates()
        self._has_optimizer |= bool(self._engine.optimizers())  # none are alive at the end of a script
        if not self._has_optimizer:
            gaps.append(
                NotChecked(
                    "optimizer and updates",
                    "no optimizer that holds parameters of the model has stepped",
                    "name the one that trains it: attach(model, optimizer)",
                )
            )
        if has_compiled():
            gaps.append(
                NotChecked(
                    "the graph of the loss",
                    "the model is compiled",
                    "train some steps without torch.compile to check it",
                )
            )
        elif not self._findings.graphs_checked:
            gaps.append(
                NotChecked(
                    "the graph of the loss",
                    "no backward pass of this process leads from a loss to the model",
                )
            )
        return gaps + self._of_layers()

    def _of_losses(self) -> list[NotChecked]:
        losses = sorted(name for name in self._scalars.names if is_loss(name))
        if len(losses) > 1:
            names = ", ".join(losses[:_NAMED]) + (", …" if len(losses) > _NAMED else "")
            return [
                NotChecked("the sum of the losses", f"{names} are logged, and each is judged alone")
            ]
        if losses:
            return []
        others = sorted(self._scalars.names)
        why = f"of the logged scalars none is named loss ({', '.join(others[:_NAMED])})"
        return [
            NotChecked("the loss", why if others else "no loss is logged", "call scope.log(loss=loss)")
        ]

    def _of_updates(self) -> list[NotChecked]:
        """Return that updates are not measured, with the reason in the first step that lacked them."""
        reason = self._engine.tracker.measurement.parameters.no_update_reason
        self._no_update_reason = reason and (self._no_update_reason or reason)
        if not self._no_update_reason:
            return []
        enable = "attach(layers=...) with few layers copies their parameters only"
        return [NotChecked("updates of the parameters", self._no_update_reason, enable)]

    def _of_layers(self) -> list[NotChecked]:
        if self._run.settings.layers is None:
            return []
        tracker = self._engine.tracker
        why = f"attach(layers=...) chooses {len(tracker.watched_names)} of {len(tracker.names)} modules"
        return [NotChecked("outputs and gradients of the other layers", why)]

    def _event(self, checked: Checked, step: int) -> Event:
        return Event(
            run=self._run.hello.run,
            rank=self._run.hello.rank,
            step=step,
            time_s=time.time(),
            level="info",
            code="checked",
            text=f"checked {checked.text}",
            checked=checked,
        )
