"""`Attending`: what a Scope does about what it sees: rules, alerts, breakpoints, pauses."""

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from torch import nn

from gradscope.agent.commands.dispatcher import CommandDispatcher
from gradscope.agent.link.publisher import Publisher
from gradscope.agent.monitors.breakpoints import Breakpoint, Breakpoints
from gradscope.agent.monitors.nan_check import NonfiniteCheck
from gradscope.agent.monitors.nan_check_schedule import CheckSchedule
from gradscope.agent.monitors.nan_response import NonfiniteResponse
from gradscope.agent.monitors.pause import Pause, check_lease
from gradscope.agent.monitors.rules import Action, Callback, RuleActions, RuleMonitor, check_action
from gradscope.agent.run.faults import Faults
from gradscope.agent.step.engine import StepEngine
from gradscope.budget import Budget, Sampler
from gradscope.errors import UsageError
from gradscope.hooks import LayerPatterns
from gradscope.names import match_names
from gradscope.protocol import AlertInfo, BreakpointState, Event, Hello, Message
from gradscope.rules import Alert, Rule, rule_kind

__all__ = ["Attending"]

_KEPT: Final = 200


class Attending(ABC):
    """Rules, breakpoints and pauses of a Scope; its methods may be called from any thread."""

    run: str
    _hello: Hello
    _names: list[str]
    _faults: Faults
    _control: CommandDispatcher
    _engine: StepEngine
    _publisher: Publisher | None

    @property
    def rules(self) -> tuple[tuple[Rule, str], ...]:
        """The rules at work, each with what it does about what it finds."""
        return self._alarms.rules

    @property
    def alerts(self) -> tuple[Alert, ...]:
        """What the rules have told, the newest 200, oldest first."""
        return tuple(self._told)

    @property
    def breakpoints(self) -> tuple[BreakpointState, ...]:
        """The breakpoints that are set."""
        return self._breakpoints.states()

    @property
    def is_paused(self) -> bool:
        """Whether the training stands, or will at the next step boundary."""
        return self._gate.is_paused

    def rule(
        self,
        name: str,
        *,
        action: Action = "event",
        threshold: float | tuple[float, float] | None = None,
        patience: int | None = None,
        layers: LayerPatterns | None = None,
    ) -> Rule:
        """Put a rule in the place of the one of this name and these layers; all rules run by default.

        name: one of `gradscope.rules.RULES`, which says what each means and its defaults.
        action: what is done beside telling: "event" nothing; "pause" the training, before the next
            step; "skip_step", so that the optimizer does nothing; "clip" the layer's gradients to what
            was allowed; "remove" all interventions; "raise" an AlertError; a function of the alert;
            "off" takes the rule away.
        threshold, patience: how far, and for how many observed steps running, before it is told.
        layers: those that it judges, as in `attach`; None: all.

        The actions "skip_step" and "clip" act in the step itself where it is observed; `nonfinite` in
        every step. They do nothing where an optimizer computes its gradients in a closure, and, as to
        skipping, where gradients are sharded between ranks.

        Raises UsageError for what cannot be, UnknownLayerError where a pattern matches nothing.
        """
        chosen = None if layers is None else match_names(layers, self._names)
        rule = Rule(rule_kind(name), threshold=threshold, patience=patience, layers=chosen)
        self._alarms.set_rule(rule, check_action(rule, action, world_size=self._hello.world_size))
        return rule

    def on_alert(self, callback: Callback) -> None:
        """Have a function called with each Alert, in the training's own thread."""
        if not callable(callback):
            raise UsageError(f"on_alert takes a function of an alert, got {type(callback).__name__}")
        self._alarms.on_alert(callback)

    def pause(self, *, lease_s: float | None = None) -> None:
        """Pause the training at the next step boundary, for 60 s unless told otherwise, 300 at most.

        It goes on by itself when the time is over; pausing again renews it. With several ranks, call it
        on all of them at the same place.
        """
        self._gate.pause(lease_s=check_lease(lease_s))

    def resume(self) -> None:
        """Let a paused training go on."""
        self._gate.resume()

    def breakpoint(self, condition: str, *, lease_s: float | None = None) -> str:
        """Pause the training at the boundary after a condition has become true; return its id.

        As `grad["blocks.3.*"].norm > 100`, `any.nan`, `step == 500`, `loss > 10`: what stands in
        `gradscope/rules/conditions.py`. Layers are looked at in observed steps only.

        Raises UsageError for what is no condition, UnknownLayerError where a pattern matches nothing.
        """
        checked = self._breakpoints.check(condition)
        lease = check_lease(lease_s)
        return self._breakpoints.add(checked, set_by="script", lease_s=lease).id

    def remove_breakpoint(self, id: str) -> None:
        """Remove a breakpoint. Raises UsageError where there is none of that id."""
        if not self._breakpoints.remove(id):
            raise UsageError(f"no breakpoint {id!r} is set")

    def _attend(self, sampler: Sampler, model: Callable[[], nn.Module | None]) -> None:
        """Make the parts and add them to the engine, behind the changes that wait for a boundary."""
        self._told: deque[Alert] = deque(maxlen=_KEPT)
        control = self._control
        self._gate = Pause(
            control.queue,
            announce=self._announce_interventions,
            note=lambda code, text: self._tell("info", code, text),
            ask_to_resume=lambda: control.request("resume"),
            is_alone=control.consensus is None,
            is_lead=control.is_lead,
        )
        self._breakpoints = Breakpoints(
            lambda: self._names, stop=self._stop, announce=self._announce_interventions
        )
        deeds = RuleActions(
            tell=self._tell_alert,
            note=lambda code, text: self._tell("warning", code, text),
            pause=self._pause_for_rule,
            remove_all=lambda: control.request("remove_all"),
            peek=self._engine.peek,
        )
        self._alarms = RuleMonitor(
            deeds, self._faults, self._engine.modules, budget=Budget(sampler.budget)
        )
        schedule = CheckSchedule(sampler.budget, lambda: sampler.pace_s)
        self._bad_steps = NonfiniteResponse(self._alarms, model, sampler.want, lambda: schedule.words)
        sentinel = NonfiniteCheck(
            self._see_bad,
            schedule=schedule,
            needs_all=lambda: self._bad_steps.must_act() or self._breakpoints.are_set,
            is_known_well=lambda: self._engine.has_only_finite,
            must_wait=self._bad_steps.must_wait,
            has_closure=lambda: self._engine.has_closure,
            on_cost=lambda spent_s: _set_aside(spent_s, sampler),
        )
        for part in (self._breakpoints, self._gate, sentinel, self._bad_steps, self._alarms):
            self._engine.add(part)
        control.register(self._gate.commands() | self._breakpoints.commands())

    def _see_scalars(self, step: int, values: dict[str, float]) -> None:
        if len(values) > 1:  # beside the step's time, which each step has
            self._alarms.on_scalars(step, values)
        self._breakpoints.on_scalars(step, values)

    def _see_bad(self, step: int, parameters: Sequence[nn.Parameter]) -> bool:
        must_skip = self._bad_steps.see(step, parameters)
        self._breakpoints.on_nonfinite()
        return must_skip

    def _stop(self, stop: Breakpoint, why: str, is_shared: bool) -> None:
        reason = f"{stop.id}, {stop.condition.text}: {why}"
        self._tell("info", "breakpoint", reason)
        self._pause(reason, stop.set_by, stop.lease_s, is_shared=is_shared)

    def _pause_for_rule(self, reason: str) -> None:
        self._pause(reason, "a rule", check_lease(None), is_shared=False)

    def _pause(self, reason: str, set_by: str, lease_s: float, *, is_shared: bool) -> None:
        """Close the gate: here where all ranks do it alike, else by asking all of them."""
        if is_shared or self._control.consensus is None:
            self._gate.pause(lease_s=lease_s, set_by=set_by, reason=reason)
        else:
            self._control.request("pause", lease_s=lease_s, set_by=set_by, condition=reason)

    def _tell_alert(self, alert: Alert, action: str) -> None:
        self._told.append(alert)
        if self._publisher is not None:
            self._publisher.put_now(partial(_alert_message, self._hello, time.time(), alert, action))

    @abstractmethod
    def _announce_interventions(self) -> None:
        """Tell viewers what is set in the run."""

    @abstractmethod
    def _tell(self, level: str, code: str, text: str) -> None:
        """Make an event."""


def _alert_message(hello: Hello, time_s: float, alert: Alert, action: str) -> Message:
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
    )


def _set_aside(spent_s: float, sampler: Sampler) -> None:
    """Have what the sentinel takes of a step counted within the budget."""
    if sampler.pace_s > 0:
        sampler.set_aside(spent_s / sampler.pace_s, "sentinel")
