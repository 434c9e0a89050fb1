"""The rules that the script and viewers have set, over the default rules.

    the default rules ──the script's──▶ base ──those of viewers, in their order──▶ the active rules

A rule replaces those of the same name or condition and the same layers. If a rule of a viewer is removed, the
rule before it is active again. It ends, as an intervention does, after some seconds or 60 s after its viewer has
disconnected, unless it is kept.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gradscope.agent.commands.dispatcher import CommandDispatcher
from gradscope.agent.commands.queue import Boundary, Prepared, ignore_done
from gradscope.agent.monitors.rules import Action, ActiveRule, RuleMonitor
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.errors import UsageError
from gradscope.intervene import VANISHED_AFTER_S, End
from gradscope.names import match_names
from gradscope.protocol import Command, RuleSetting, RuleState, rule_in_words
from gradscope.rules import Rule, check_action, make_rule

__all__ = ["SetRules"]

_LIMIT = 50
_RETRY_S = 5.0
_SCRIPT = "script"


@dataclass(slots=True)
class _SetRule:
    """A rule that somebody has set. `set_at_s`: None on ranks that did not receive the command."""

    id: str
    setting: RuleSetting
    active: ActiveRule
    set_by: str
    end: End
    set_at_s: float | None = None
    end_requested_s: float = -_RETRY_S

    def state(self) -> RuleState:
        end = "switched off after an error" if self.active.has_failed else str(self.end)
        return RuleState(self.id, self.setting, self.set_by, end, self.active.reports)


class SetRules(StepPlugin):
    """The rules that the script and viewers have set. Add this plugin to the engine after `monitor`."""

    name = "set rules"

    def __init__(
        self, run: RunContext, engine: StepEngine, commands: CommandDispatcher, monitor: RuleMonitor
    ) -> None:
        self._run = run
        self._engine = engine
        self._commands = commands
        self._monitor = monitor
        self._base = list(monitor.active_rules)
        self._set: dict[str, _SetRule] = {}
        self._numbers = itertools.count(1)
        self._viewers_seen_s: dict[str, float] = {}

    def set_by_script(self, rule: Rule, action: Action) -> None:
        """Set a rule for the rest of the run. The action "off" removes rules of that name and layers."""
        kept = {id: each for id, each in self._set.items() if each.set_by == _SCRIPT}
        for id, each in kept.items():
            if rule.is_same_place(each.active.rule):
                del self._set[id]
        added = ActiveRule(rule, action)
        self._base = _with_rule(self._base, added)
        id = f"script-{next(self._numbers)}"
        self._set = {id: _SetRule(id, _setting_of(added), added, _SCRIPT, End()), **self._set}
        self._apply()

    def commands(self) -> dict[str, Callable[[Command], Prepared]]:
        """Return a dict from each action to the function that validates its commands."""
        return {"rule": self._prepare_rule, "unrule": self._prepare_unrule}

    def on_viewers(self, viewers: Sequence[str]) -> None:
        """Record which viewers are connected."""
        now_s = time.monotonic()
        self._viewers_seen_s.update(dict.fromkeys(viewers, now_s))

    def next_active_step(self, step: int) -> int | None:
        """Return `step` if a viewer has set a rule: its end must be noticed."""
        return step if any(each.set_by != _SCRIPT for each in self._set.values()) else None

    def at_boundary(self, step: int) -> None:  # noqa: ARG002 - the signature of a plugin
        """Request the end of rules whose viewer has disconnected or whose time is over; send new numbers of reports."""
        for each in list(self._set.values()):
            if each.set_at_s is not None and self._is_over(each, each.set_at_s):
                self._request_end(each)
        if self._set and self._states() != self._run.rules:
            self._publish()

    def _is_over(self, each: _SetRule, set_at_s: float) -> bool:
        now_s = time.monotonic()
        if each.end.seconds is not None:
            return now_s - set_at_s > each.end.seconds
        if each.end.viewer is None:
            return False
        seen_s = max(set_at_s, self._viewers_seen_s.get(each.end.viewer, 0.0))
        return now_s - seen_s > VANISHED_AFTER_S

    def _request_end(self, each: _SetRule) -> None:
        """Remove a rule on all ranks at the same boundary."""
        now_s = time.monotonic()
        if now_s - each.end_requested_s >= _RETRY_S:
            each.end_requested_s = now_s
            self._commands.request("unrule", target=each.id)

    def _prepare_rule(self, command: Command) -> Prepared:
        setting = command.rule
        if setting is None:
            raise UsageError("expected the setting of a rule in the command, got none")
        rule = self._check(setting)
        if setting.action == "raise":
            raise UsageError(
                "the action raise is for the script, which can handle the error: scope.rule(…, action='raise'); "
                "a viewer can pause the training"
            )
        action = check_action(rule, setting.action, world_size=self._run.hello.world_size)
        if command.end_s is not None and not command.end_s > 0:
            raise UsageError(f"a rule must last more than 0 seconds, got {command.end_s!r}")
        viewer = None if command.is_kept or command.end_s is not None else command.peer
        end = End(seconds=None if command.is_kept else command.end_s, viewer=viewer)

        def apply(boundary: Boundary) -> None:
            replaced = [
                id
                for id, each in self._set.items()
                if each.set_by != _SCRIPT and rule.is_same_place(each.active.rule)
            ]
            if len(self._set) - len(replaced) >= _LIMIT:
                raise UsageError(f"expected at most {_LIMIT} set rules in a run; remove one first")
            for id in replaced:
                del self._set[id]
            added = _SetRule(
                f"rule-{boundary.label or next(self._numbers)}",
                setting,
                ActiveRule(rule, action),
                command.set_by or command.peer or "viewer",
                end,
            )
            if boundary.done is not ignore_done:  # on the rank that received the command
                added.set_at_s = time.monotonic()
            self._set[added.id] = added
            self._apply()
            self._run.event("info", "rule.set", f"{_in_words(added)} set by {added.set_by}")
            boundary.done(boundary.step, added.id)

        return apply

    def _prepare_unrule(self, command: Command) -> Prepared:
        def apply(boundary: Boundary) -> None:
            removable = [id for id, each in self._set.items() if each.set_by != _SCRIPT]
            if command.target and command.target not in removable:
                raise UsageError(
                    f"no viewer has set a rule {command.target!r}; there are: {', '.join(removable) or 'none'}. "
                    "A rule of the script can be switched off by a rule with the action off"
                )
            for id in [command.target] if command.target else removable:
                gone = self._set.pop(id)
                by = command.set_by or "its end"
                self._run.event("info", "rule.removed", f"{_in_words(gone)} removed by {by}")
            self._apply()
            boundary.done(boundary.step)

        return apply

    def _check(self, setting: RuleSetting) -> Rule:
        """Return the rule of a setting. Raises UsageError if it is invalid or names no layer."""
        names = list(self._engine.tracker.names)
        rule = make_rule(
            setting.rule,
            threshold=_threshold_of(setting),
            patience=setting.patience,
            layers=match_names(setting.layers, names) if setting.layers else None,
        )
        if rule.condition is not None:
            rule.condition.check_layers(names)
        return rule

    def _apply(self) -> None:
        active = self._base
        for each in self._set.values():
            if each.set_by != _SCRIPT:
                active = _with_rule(active, each.active)
        self._monitor.use(active)
        self._publish()

    def _publish(self) -> None:
        self._run.rules = self._states()
        self._run.publish_interventions()

    def _states(self) -> tuple[RuleState, ...]:
        return tuple(each.state() for each in list(self._set.values()))


def _with_rule(rules: Sequence[ActiveRule], added: ActiveRule) -> list[ActiveRule]:
    """Return rules with one more, which replaces those in its place. The action "off" replaces them by nothing."""
    rest = [each for each in rules if not added.rule.is_same_place(each.rule)]
    return rest if added.action == "off" else [*rest, added]


def _setting_of(active: ActiveRule) -> RuleSetting:
    rule = active.rule
    threshold = rule.threshold if isinstance(rule.threshold, tuple) else (rule.threshold,)
    is_own = rule.condition is None and rule.threshold != rule.kind.threshold
    layers = () if rule.layers is None else tuple(sorted(rule.layers))
    return RuleSetting(rule.text, active.words, threshold if is_own else (), rule.patience, layers)


def _threshold_of(setting: RuleSetting) -> float | tuple[float, float] | None:
    match setting.threshold:
        case ():
            return None
        case (limit,):
            return limit
        case (low, high):
            return low, high
    raise UsageError(f"expected a threshold of one or two numbers, got {len(setting.threshold)}")


def _in_words(each: _SetRule) -> str:
    return f"the rule {rule_in_words(each.setting)}, with the action {each.setting.action},"
