"""Response to nonfinite gradients: an alert, and the action of the rule `nonfinite`.

Only an observed step shows where a NaN originated; in such a step the rule `nonfinite` names that
layer. In any other step the alert names the step and the parameters, and says that the origin was not
observed. The following steps are then observed, as far as the budget allows, in case the NaN appears
again. One step after the first NaN, the parameters contain NaN too, unless the step was skipped.

An occurrence is reported once, and its nonfinite steps are counted: an event reports the 10th, the 100th, and
so on. A nonfinite step begins a new occurrence if no NaN was found in the 10 steps before it. With each new
occurrence this number doubles, so that a NaN that comes and goes is not reported each time.
"""

from collections.abc import Sequence
from typing import Final

from torch import nn

from gradscope.agent.flight_recorder.recorder import FlightRecorder
from gradscope.agent.monitors.nan_check_schedule import CheckSchedule
from gradscope.agent.monitors.rules import ActiveRule, RuleMonitor
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.hooks import is_sharded
from gradscope.rules import Alert, RuleFinding

__all__ = ["NonfiniteResponse"]

_FOLLOWED: Final = 10
"""Number of steps to observe after a nonfinite step, and of steps without one before a new occurrence."""

_LONGEST_ABSENCE: Final = 1_000

_RULE: Final = "nonfinite"
_SHOWN: Final = 3


class NonfiniteResponse:
    """Reports nonfinite gradients to the rules of a run, and requests that the next steps are observed."""

    def __init__(
        self,
        run: RunContext,
        engine: StepEngine,
        rules: RuleMonitor,
        schedule: CheckSchedule,
        recorder: FlightRecorder,
    ) -> None:
        self._run = run
        self._engine = engine
        self._rules = rules
        self._schedule = schedule
        self._recorder = recorder
        self._first = self._last = -1
        """The first and the last nonfinite step of the newest occurrence."""
        self._count = 0
        self._absence = _FOLLOWED

    def must_wait(self) -> bool:
        """Return whether the result of the check must be known before the optimizer steps."""
        return any(each.action in ("skip_step", "raise") for each in self._rules.active(_RULE))

    def must_act(self) -> bool:
        """Return whether a rule has an action for nonfinite steps other than reporting them."""
        return self._rules.acts_on_nonfinite

    def report(self, step: int, parameters: Sequence[nn.Parameter]) -> bool:
        """Handle parameters with nonfinite gradients. Return whether to skip the optimizer step."""
        is_first = self._begins_occurrence(step)
        if is_first:
            self._run.sampler.request_steps(_FOLLOWED)
            self._run.plan_again()  # the next step is observed, so it is not idle
        has_shards = any(is_sharded(parameter) for parameter in parameters)
        names = self._names_of(parameters) if is_first else []
        if is_first:
            acting = [each for each in self._rules.active(_RULE) if each.action != "event"]
            note = _skipped(acting[0], has_shards) if acting else ""
            self._recorder.report(step, names, note, action=acting[0].words if acting else "")
        else:
            self._recorder.dismiss()
        must_skip = False
        for active in self._rules.active(_RULE):
            must_skip |= active.action == "skip_step" and not has_shards
            if (
                is_first
                and self._concerns(active, names)
                and not self._is_reported_by_columns(active, step)
            ):
                words = _words(
                    names, active, is_observed=self._is_observed(step), has_shards=has_shards
                )
                if not self.must_act() and self._schedule.words:
                    words += f"; {self._schedule.words}"
                finding = RuleFinding("", "param_grad", float(len(names)), 0.0, "{}", (words,))
                self._rules.act(active, [Alert(_RULE, step, step, finding)])
        return must_skip

    def _begins_occurrence(self, step: int) -> bool:
        """Count a nonfinite step; return whether it is the first one of an occurrence."""
        if step == self._last:  # another optimizer of the same step
            return self._count == 1
        unchecked = 0 if self.must_act() else self._schedule.largest
        is_new = not self._count or step > self._last + max(self._absence, 2 * unchecked)
        if is_new:
            self._absence = min(2 * self._absence, _LONGEST_ABSENCE) if self._count else _FOLLOWED
            self._first, self._count = step, 0
        self._last, self._count = step, self._count + 1
        if self._count in (10, 100, 1_000, 10_000, 100_000):
            self._run.event(
                "warning",
                "nonfinite.persists",
                f"gradients were not finite in {self._count:,} checked steps since step {self._first}",
            )
        return is_new

    def _is_observed(self, step: int) -> bool:
        return self._engine.is_observed and self._engine.step == step

    def _is_reported_by_columns(self, active: ActiveRule, step: int) -> bool:
        """Return whether the statistics of the step will report the NaN, with its origin and in time."""
        return self._is_observed(step) and active.action not in ("skip_step", "raise")

    @staticmethod
    def _concerns(active: ActiveRule, names: Sequence[str]) -> bool:
        layers = active.rule.layers
        return layers is None or any(name.rpartition(".")[0] in layers for name in names)

    def _names_of(self, parameters: Sequence[nn.Parameter]) -> list[str]:
        model = self._run.model()
        names = {} if model is None else {id(p): name for name, p in model.named_parameters()}
        return [names.get(id(parameter), "a parameter outside the model") for parameter in parameters]


def _words(names: Sequence[str], active: ActiveRule, *, is_observed: bool, has_shards: bool) -> str:
    rest = len(names) - _SHOWN
    shown = ", ".join(names[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
    origin = "" if is_observed else "; origin not observed"
    skipped = _skipped(active, has_shards)
    return f"not finite: the gradients of {shown}{origin}" + (f"; {skipped}" if skipped else "")


def _skipped(active: ActiveRule, has_shards: bool) -> str:
    """Return whether a rule skips the optimizer's step, as a clause; an empty string if it does not."""
    if active.action != "skip_step":
        return ""
    if has_shards:
        return "the step is not skipped: gradients are sharded, and ranks might differ"
    return "the optimizer's step is skipped"
