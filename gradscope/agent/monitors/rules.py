"""The active rules of a run: they evaluate steps, report alerts and apply actions.

    observed step ──▶ its columns     ──▶ rules ──▶ Alert ──▶ event, callbacks, action
    every step    ──▶ nonfinite check ──▶ rule `nonfinite` ──┘

A rule with the action skip_step, clip or raise evaluates the available data before the optimizer steps,
in observed steps; on CUDA this waits for the device. All other rules evaluate a step when its
statistics are on the host. The rule `nonfinite` also receives the results of the nonfinite check, so it
acts in every step.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeAlias

import torch
from torch.optim import Optimizer

from gradscope.agent.commands.dispatcher import CommandDispatcher
from gradscope.agent.diagnosis.batch_log import BatchLog
from gradscope.agent.monitors.pause import Pause, check_lease
from gradscope.agent.monitors.skip_step import HiddenGradients
from gradscope.agent.observation.observed_step import ObservedStep
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.budget import Budget, Consumer, RateLimit
from gradscope.columns import Block
from gradscope.errors import AlertError
from gradscope.findings import Finding
from gradscope.hooks import hidden_from_modes, parameters_of
from gradscope.protocol import AlertInfo, Event, Hello
from gradscope.rules import Alert, Rule, RuleFinding, StepView, default_rules, finding_of

__all__ = ["Action", "ActiveRule", "Callback", "RuleMonitor"]

Callback: TypeAlias = Callable[[Alert], object]
Action: TypeAlias = str | Callback

_EARLY: Final = ("skip_step", "clip", "raise")
_REPORTED_ONE_BY_ONE: Final = 8

_REPORTED_ELSEWHERE: Final = ("nonfinite", "learning-rate-too-high")

_ALERTS_KEPT: Final = 200
_REQUESTED: Final = 10
"""Steps that a rule in doubt asks for. Most rules need no more; the doubt must end before they ask again."""


@dataclass(slots=True)
class ActiveRule:
    """A rule and its action. `reports`: how many alerts it had. `has_failed`: it raised, and is switched off."""

    rule: Rule
    action: Action
    reports: int = 0
    has_failed: bool = False

    @property
    def words(self) -> str:
        """The name of the action."""
        return self.action if isinstance(self.action, str) else "call"

    @property
    def is_early(self) -> bool:
        """Whether the rule acts before the optimizer steps."""
        return self.action in _EARLY and self.rule.kind.is_early and not self.rule.kind.reads_scalars


class RuleMonitor(StepPlugin):
    """The active rules of one run. By default all rules are active and only report.

    `acts_on_nonfinite`: the rule `nonfinite` has an action other than reporting.
    """

    name = "the rules"
    needs_observed = True

    def __init__(
        self, run: RunContext, engine: StepEngine, commands: CommandDispatcher, pause: Pause
    ) -> None:
        self._run = run
        self._engine = engine
        self._commands = commands
        self._pause = pause
        self._alerts: deque[Alert] = deque(maxlen=_ALERTS_KEPT)
        self._findings: deque[Finding] = deque(maxlen=_ALERTS_KEPT)
        self._set_active_rules([ActiveRule(rule, "event") for rule in default_rules()])
        self._callbacks: list[Callback] = []
        self._types: tuple[Sequence[str], tuple[str, ...]] = ((), ())
        self._step = 0
        self._is_observed = False
        self._has_judged = False
        self._early: set[tuple[int, int]] = set()
        self._hidden_gradients = HiddenGradients()
        self._limit = RateLimit(Budget(run.sampler.budget).share(Consumer.RULES), time.perf_counter)
        self._raising: AlertError | None = None
        self._is_in_doubt = False

    @property
    def active_rules(self) -> Sequence[ActiveRule]:
        """The rules with their actions."""
        return self._active_rules

    @property
    def rules(self) -> tuple[tuple[Rule, str], ...]:
        """The rules, each with the name of its action."""
        return tuple((active.rule, active.words) for active in self._active_rules)

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """The newest 200 alerts, oldest first."""
        return tuple(self._alerts)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """The findings of these alerts, with the actions of their rules."""
        return tuple(self._findings)

    def use(self, active: Sequence[ActiveRule]) -> None:
        """Use these rules from now on, without the failed ones. Call it between two steps."""
        self._set_active_rules([each for each in active if not each.has_failed])
        self._run.plan_again()

    def on_alert(self, callback: Callback) -> None:
        """Call `callback` with each alert, in the training thread."""
        self._callbacks.append(callback)

    def active(self, name: str) -> tuple[ActiveRule, ...]:
        """Return the active rules with this name."""
        return self._by_name.get(name, ())

    def act(self, active: ActiveRule, alerts: Sequence[Alert]) -> None:
        """Report alerts (only the first few individually), and apply the action of the rule."""
        if not alerts:
            return
        for alert in alerts[:_REPORTED_ONE_BY_ONE]:
            self._report(alert, active)
        rest = len(alerts) - _REPORTED_ONE_BY_ONE
        if rest > 0:
            self._run.event(
                "warning", f"alert.{active.rule.name}", f"{active.rule.name}: {rest} more layers"
            )
        if active.action == "pause":
            reason = f"{alerts[0].rule}: {alerts[0].text}"
            self._pause.pause_all(
                lease_s=check_lease(None), set_by="a rule", reason=reason, is_shared=False
            )
        elif active.action == "remove":
            self._commands.request("remove_all")
        elif active.action == "raise":
            self._raising = AlertError(f"{alerts[0].rule} in step {alerts[0].step}: {alerts[0].text}")
            self._run.plan_again()

    def on_scalars(self, step: int, values: Mapping[str, float], batches: BatchLog) -> None:
        """Evaluate the logged scalars of a step, which may be several steps old.

        batches: those of the newest steps; a spike of the loss names its batch.
        """
        view = StepView(step, (), None, scalars=values)
        for active in self._of_scalars:
            alerts = self._alerts_of(active, view)
            is_of_loss = active.rule.condition is None
            if is_of_loss and any(finding_of(alert).code == "loss-spike" for alert in alerts):
                alerts = self._with_batch(alerts, batches)
            self.act(active, alerts)

    def _with_batch(self, alerts: list[Alert], batches: BatchLog) -> list[Alert]:
        """Return the alerts of a spike of the loss with the batch of its step, if it is known."""
        try:
            with hidden_from_modes():
                batch = batches.of_step(alerts[0].step)
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            self._run.faults.report("the digest of a batch", error, "The spike is reported without it.")
            return alerts
        if batch is None:
            return alerts
        return [
            replace(
                alert,
                finding=replace(
                    alert.finding,
                    form=f"{alert.finding.form}; {{}}",
                    values=(*alert.finding.values, batch.text),
                    evidence={**alert.finding.evidence, **batch.evidence},
                ),
            )
            for alert in alerts
        ]

    def next_active_step(self, step: int) -> int | None:
        """Return `step` if a rule must raise an error in it or gradients are hidden from the optimizer, else None."""
        return step if self._raising is not None or self._hidden_gradients.are_hidden else None

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Begin a step; raise AlertError if a rule with the action "raise" found something."""
        self._step, self._is_observed, self._has_judged = step, is_observed, False
        self._hidden_gradients.restore()
        self._raise()

    def before_optimizer(self, optimizer: Optimizer) -> None:
        """Skip or clip for the rules that act before an optimizer steps; the first one's gradients are judged.

        What a rule found applies to each optimizer of the step.
        """
        self._raise()
        if not self._early_rules or not self._is_observed:
            return
        if not self._has_judged:
            self._judge_before_optimizers()
        for active in self._early_rules:
            findings = active.rule.active if (self._step, id(active)) in self._early else ()
            if findings and active.action == "clip":
                self._clip(optimizer, findings)
            elif findings and active.action == "skip_step":
                self._hidden_gradients.hide(optimizer)
        self._raise()

    def _judge_before_optimizers(self) -> None:
        measured = self._engine.peek()
        if measured is None:
            return
        self._has_judged = True
        view = self._view(self._step, *measured)
        for active in self._early_rules:
            self._early.add((self._step, id(active)))
            self.act(active, self._alerts_of(active, view))

    def after_optimizer(self, optimizer: Optimizer) -> None:  # noqa: ARG002 - the signature of a plugin
        """Restore the hidden gradients."""
        self._hidden_gradients.restore()

    def observed(self, step: ObservedStep) -> None:
        """Evaluate the rules in an observed step.

        Rules that only report are limited to their share of the budget. The time of actions and
        callbacks does not count.
        """
        began_s = self._limit.clock()
        is_due = self._limit.is_due()
        view = self._view(step.step, step.names, step.block)
        judged = [
            (active, self._alerts_of(active, view))
            for active in (self._of_columns if is_due else self._always_judged)
            if (step.step, id(active)) not in self._early
        ]
        if is_due:
            self._limit.record(began_s)
            self._request_steps()
        for active, alerts in judged:
            self.act(active, alerts)
        if self._early:
            self._early = {key for key in self._early if key[0] > step.step}

    def _request_steps(self) -> None:
        """Ask for the next steps if a rule is in doubt, inside the budget. Ranks must observe the same steps."""
        is_in_doubt = any(active.rule.is_in_doubt for active in self._of_columns)
        if is_in_doubt and not self._is_in_doubt and self._run.hello.world_size == 1:
            self._run.sampler.request_steps(_REQUESTED)
            self._run.plan_again()
        self._is_in_doubt = is_in_doubt

    def _alerts_of(self, active: ActiveRule, view: StepView) -> list[Alert]:
        """Return the alerts of one rule after a step. A rule that raises is switched off; the others continue."""
        try:
            found = active.rule.judge(view)
        except Exception as error:  # noqa: BLE001 - gradscope's errors must not stop the training
            active.has_failed = True
            self._set_active_rules([each for each in self._active_rules if each is not active])
            self._run.faults.report(
                f"the rule {active.rule.name}",
                error,
                "This rule is switched off; the other rules stay active.",
            )
            return []
        if active.rule.name == "nonfinite" and view.step == self._run.scaler_skipped_step:
            return []  # an overflow of the scaled gradients, which `ScalerSkips` reports
        return found

    def _set_active_rules(self, active: list[ActiveRule]) -> None:
        by_name: dict[str, tuple[ActiveRule, ...]] = {}
        for each in active:
            by_name[each.rule.name] = (*by_name.get(each.rule.name, ()), each)
        self._active_rules, self._by_name = active, by_name
        self._of_columns = [p for p in active if p.rule.kind.reads_columns]
        self._of_scalars = [p for p in active if p.rule.kind.reads_scalars]
        self._always_judged = [
            p for p in self._of_columns if p.action != "event" or p.rule.name == "nonfinite"
        ]
        self.acts_on_nonfinite = any(p.action != "event" for p in self.active("nonfinite"))
        self._early_rules = [p for p in active if p.is_early and p.rule.name != "nonfinite"]

    def close(self) -> None:
        """Restore the hidden gradients."""
        self._hidden_gradients.restore()

    def _report(self, alert: Alert, active: ActiveRule) -> None:
        self._alerts.append(alert)
        active.reports += 1
        is_quiet = active.rule.condition is not None or self._is_known(alert)
        found = None if is_quiet else finding_of(alert, active.words)
        if found is not None:
            self._findings.append(found)
            self._run.codes_of_rules.add(found.code)
        self._run.publisher.put_and_send(
            partial(_alert_event, self._run.hello, time.time(), alert, active.words, found)
        )
        callbacks = [*self._callbacks, *([active.action] if callable(active.action) else [])]
        for callback in callbacks:
            try:
                callback(alert)
            except Exception as error:  # noqa: BLE001 - a callback must not stop the training
                self._run.faults.report(
                    "an alert callback", error, "The alert was reported nevertheless."
                )
        if found is not None:
            self._run.pass_on(found)

    def _is_known(self, alert: Alert) -> bool:
        """Return whether the flight recorder or the signals have reported the same with more detail."""
        code = finding_of(alert).code
        return code in _REPORTED_ELSEWHERE and code in self._run.reported_codes

    def _clip(self, optimizer: Optimizer, findings: Sequence[RuleFinding]) -> None:
        """Scale the gradients of layers down to the limit given by each finding."""
        modules = self._engine.tracker.modules()
        mine = {id(parameter) for parameter in parameters_of(optimizer)}
        with torch.no_grad():
            for finding in findings:
                if not math.isfinite(finding.value) or not finding.value > 0:
                    continue
                for name in finding.layers or (finding.layer,):
                    for parameter in modules[name].parameters(recurse=False):
                        if id(parameter) in mine and parameter.grad is not None:
                            parameter.grad.mul_(min(1.0, finding.limit / finding.value))

    def _raise(self) -> None:
        error, self._raising = self._raising, None
        if error is not None:
            raise error

    def _view(self, step: int, names: Sequence[str], block: Block) -> StepView:
        if self._types[0] is not names:
            modules = self._engine.tracker.modules()
            types = tuple(type(modules[name]).__name__ if name in modules else "" for name in names)
            self._types = names, types
        return StepView(step, names, block, types=self._types[1])


def _alert_event(
    hello: Hello, time_s: float, alert: Alert, action: str, found: Finding | None
) -> Event:
    finding = alert.finding
    return Event(
        run=hello.run,
        rank=hello.rank,
        step=alert.step,
        time_s=time_s,
        level="error" if alert.rule == "nonfinite" else "warning",
        code=f"alert.{alert.rule}",
        text=alert.text,
        alert=AlertInfo(
            rule=alert.rule,
            layer=finding.layer,
            kind=finding.kind,
            value=finding.value,
            threshold=finding.limit,
            first_step=alert.first_step,
            action=action,
        ),
        finding=found,
    )
