"""Rules at work in the training: what they find is told, and done about.

    observed step ──▶ its columns ──▶ rules ──▶ Alert ──▶ message, callbacks, action
    every step    ──▶ sentinel ──▶ nonfinite ───────┘

A rule that is to skip, to clip or to raise judges what is known before the optimizer steps, in observed
steps; on CUDA that waits for the device. All others judge the step when its numbers have come. The rule
`nonfinite` stands on the sentinel, and so acts in every step.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import torch
from torch import nn
from torch.optim import Optimizer

from gradscope.agent.monitors.skip_step import HiddenGradients
from gradscope.agent.observation.measurement import FinishedStep
from gradscope.agent.run.faults import Faults
from gradscope.agent.step.plugins import StepPlugin
from gradscope.columns import Block
from gradscope.errors import AlertError, UsageError
from gradscope.hooks import parameters_of
from gradscope.rules import Alert, Rule, RuleFinding, StepView, default_rules, is_loss

__all__ = ["ACTIONS", "Action", "ActiveRule", "Callback", "RuleActions", "RuleMonitor", "check_action"]

ACTIONS: Final = ("event", "pause", "skip_step", "clip", "remove", "raise", "off")
"""What can be done about an alert, beside calling a function."""

Callback: TypeAlias = Callable[[Alert], object]
Action: TypeAlias = str | Callback

_EARLY: Final = ("skip_step", "clip", "raise")
_TOLD_AT_ONCE: Final = 8

_JUDGED_ALL: Final = 200
"""So many observed steps are all judged: a short run has no more."""

_APART_S: Final = 0.04
"""From then on rules that only tell judge 25 steps a second at most: it takes a tiny step's time."""

_REST: Final = 200
"""They also rest so many times as long as judging last took: it takes half a percent of the time."""

_LONGEST_REST_S: Final = 5.0
"""But no longer, for a look that was slow because the machine did something else."""


def check_action(rule: Rule, action: object, *, world_size: int) -> Action:
    """Return the action. Raises UsageError for one that there is not, or that this rule cannot have."""
    if callable(action):
        return action
    if not isinstance(action, str) or action not in ACTIONS:
        raise UsageError(
            f"the action of a rule is one of {', '.join(ACTIONS)}, or a function of the alert; "
            f"got {action!r}"
        )
    kind = rule.kind
    if action == "clip" and not kind.can_clip:
        raise UsageError(f"{rule.name} has no norm that could be clipped; exploding and spike have")
    if action == "skip_step" and not kind.is_early:
        raise UsageError(f"{rule.name} is known only when the optimizer has stepped: no step to skip")
    if action == "skip_step" and kind.needs_scalars:
        raise UsageError(f"{rule.name} is judged when the step has ended: no step to skip")
    if action in ("skip_step", "clip") and world_size > 1 and not kind.is_shared:
        raise UsageError(
            f"{rule.name} sees other numbers on each of the {world_size} ranks: they would not "
            f"{action} together. Those on parameters' gradients do: nonfinite, exploding, vanishing, "
            "spike"
        )
    return action


@dataclass(frozen=True, slots=True)
class RuleActions:
    """What alarms can have done: tell it, pause the training, remove interventions.

    `peek` gives layers and columns of the step in progress; None where it is not observed.
    """

    tell: Callable[[Alert, str], None]
    note: Callable[[str, str], None]
    pause: Callable[[str], None]
    remove_all: Callable[[], None]
    peek: Callable[[], tuple[tuple[str, ...], Block] | None]


@dataclass(slots=True)
class ActiveRule:
    """A rule and what is done about what it finds."""

    rule: Rule
    action: Action

    @property
    def words(self) -> str:
        """The action in a word."""
        return self.action if isinstance(self.action, str) else "call"

    @property
    def is_early(self) -> bool:
        """Whether it is to act before the optimizer steps."""
        return self.action in _EARLY and self.rule.kind.is_early and not self.rule.kind.needs_scalars


class RuleMonitor(StepPlugin):
    """The rules of one run. All of them judge from the first step on; by default they only tell.

    `acts_on_nonfinite`: whether more is to be done about a bad step than to tell of it.
    """

    name = "the rules"
    needs_observed = True

    def __init__(
        self,
        deeds: RuleActions,
        faults: Faults,
        modules: Callable[[], Mapping[str, nn.Module]],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._deeds = deeds
        self._faults = faults
        self._modules = modules
        self._clock = clock
        self._put([ActiveRule(rule, "event") for rule in default_rules()])
        self._callbacks: list[Callback] = []
        self._types: tuple[Sequence[str], tuple[str, ...]] = ((), ())
        self._step = 0
        self._is_observed = False
        self._has_judged = False
        self._early: set[tuple[int, int]] = set()
        self._withheld = HiddenGradients()
        self._is_posted = False
        self._readings, self._rests_until_s = 0, 0.0
        self._raising: AlertError | None = None

    @property
    def rules(self) -> tuple[tuple[Rule, str], ...]:
        """The rules and what each does about what it finds."""
        return tuple((posted.rule, posted.words) for posted in self._posted)

    def post(self, rule: Rule, action: Action) -> None:
        """Put a rule in the place of those of its name that judge the same layers; "off" takes away."""
        rest = [
            each
            for each in self._posted
            if each.rule.name != rule.name
            or (rule.layers is not None and each.rule.layers != rule.layers)
        ]
        self._put(rest if action == "off" else [*rest, ActiveRule(rule, action)])
        self._is_posted = True
        self.wake()
        self.look_now()

    def on_alert(self, callback: Callback) -> None:
        """Have a function called with each alert, in the training's thread."""
        self._callbacks.append(callback)

    def posted(self, name: str) -> tuple[ActiveRule, ...]:
        """Return the rules of a name."""
        return self._by_name.get(name, ())

    def act(self, posted: ActiveRule, alerts: Sequence[Alert]) -> None:
        """Tell of alerts, of the first few one by one, and do what is to be done."""
        if not alerts:
            return
        for alert in alerts[:_TOLD_AT_ONCE]:
            self._tell(alert, posted)
        rest = len(alerts) - _TOLD_AT_ONCE
        if rest > 0:
            self._deeds.note(f"alert.{posted.rule.name}", f"{posted.rule.name}: and {rest} layers more")
        if posted.action == "pause":
            self._deeds.pause(f"{alerts[0].rule}: {alerts[0].text}")
        elif posted.action == "remove":
            self._deeds.remove_all()
        elif posted.action == "raise":
            self._raising = AlertError(f"{alerts[0].rule} in step {alerts[0].step}: {alerts[0].text}")
            self.wake()

    def see_scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Judge the numbers of a step; they may come some steps later."""
        if not any(map(is_loss, values)):  # the rules that there are look at nothing else
            return
        reading = StepView(step, (), None, scalars=values)
        for posted in self._posted:
            if posted.rule.kind.needs_scalars:
                self.act(posted, posted.rule.judge(reading))

    def begin(self, step: int, *, is_observed: bool) -> None:
        """Begin a step; raise what a rule had to raise."""
        self._step, self._is_observed, self._has_judged = step, is_observed, False
        self._withheld.give_back()
        self._raise()
        self.rest()
        if self._is_posted:  # in the training's thread now, where nothing comes between
            self._is_posted = False
            self.look_now()

    def before_optimizer(self, optimizer: Optimizer) -> None:
        """Judge what is known before the optimizer steps, where a rule is to act on it."""
        self._raise()
        if not self._early_rules or not self._is_observed or self._has_judged:
            return
        measured = self._deeds.peek()
        if measured is None:
            return
        self._has_judged = True
        reading = self._reading(self._step, *measured)
        for posted in self._early_rules:
            self._early.add((self._step, id(posted)))
            self.act(posted, posted.rule.judge(reading))
            standing = posted.rule.active
            if standing and posted.action == "clip":
                self._clip(optimizer, standing)
            elif standing and posted.action == "skip_step":
                self._withheld.take(optimizer)
        self._raise()

    def after_optimizer(self, optimizer: Optimizer) -> None:  # noqa: ARG002 - a part's signature
        """Give back the gradients that the optimizer was not to see."""
        self._withheld.give_back()

    def observed(self, finished: FinishedStep) -> None:
        """Judge a step whose numbers have come.

        Rules that only tell do not judge every one of many steps a second, and rest after each so long
        that judging takes half a percent of the time. What is done about alerts does not count: a
        callback may take as long as it likes.
        """
        began_s = self._clock()
        self._readings += 1
        is_due = self._readings <= _JUDGED_ALL or began_s >= self._rests_until_s
        reading = self._reading(finished.step, finished.names, finished.block)
        told = [
            (posted, posted.rule.judge(reading))
            for posted in (self._of_columns if is_due else self._restless)
            if (finished.step, id(posted)) not in self._early
        ]
        if is_due:
            took_s = self._clock() - began_s
            self._rests_until_s = began_s + max(_APART_S, min(_REST * took_s, _LONGEST_REST_S))
        for posted, alerts in told:
            self.act(posted, alerts)
        if self._early:
            self._early = {key for key in self._early if key[0] > finished.step}

    def _put(self, posted: list[ActiveRule]) -> None:
        by_name: dict[str, tuple[ActiveRule, ...]] = {}
        for each in posted:
            by_name[each.rule.name] = (*by_name.get(each.rule.name, ()), each)
        self._posted, self._by_name = posted, by_name
        self._of_columns = [p for p in posted if not p.rule.kind.needs_scalars]
        self._restless = [
            p for p in self._of_columns if p.action != "event" or p.rule.name == "nonfinite"
        ]
        self.acts_on_nonfinite = any(p.action != "event" for p in self.posted("nonfinite"))
        self._early_rules = [p for p in posted if p.is_early and p.rule.name != "nonfinite"]

    def close(self) -> None:
        """Give back what was taken."""
        self._withheld.give_back()

    def _tell(self, alert: Alert, posted: ActiveRule) -> None:
        self._deeds.tell(alert, posted.words)
        callbacks = [*self._callbacks, *([posted.action] if callable(posted.action) else [])]
        for callback in callbacks:
            try:
                callback(alert)
            except Exception as error:  # noqa: BLE001 - a callback must not become the training's end
                self._faults.report("a callback of alerts", error, "The alert was told all the same.")

    def _clip(self, optimizer: Optimizer, findings: Sequence[RuleFinding]) -> None:
        """Scale the gradients of layers down to what was allowed."""
        modules = self._modules()
        mine = {id(parameter) for parameter in parameters_of(optimizer)}
        with torch.no_grad():
            for finding in findings:
                if not math.isfinite(finding.value) or not finding.value > 0:
                    continue
                for parameter in modules[finding.layer].parameters(recurse=False):
                    if id(parameter) in mine and parameter.grad is not None:
                        parameter.grad.mul_(min(1.0, finding.limit / finding.value))

    def _raise(self) -> None:
        error, self._raising = self._raising, None
        if error is not None:
            raise error

    def _reading(self, step: int, names: Sequence[str], block: Block) -> StepView:
        if self._types[0] is not names:
            modules = self._modules()
            types = tuple(type(modules[name]).__name__ if name in modules else "" for name in names)
            self._types = names, types
        return StepView(step, names, block, types=self._types[1])
