"""Breakpoints: conditions at which the training pauses at the next step boundary.

A condition on step numbers only is evaluated before a step begins, and pauses before that step. A
condition on logged scalars is evaluated for every step, when its scalars are on the host. A condition
on layers is evaluated in observed steps only; with a budget these are few. A breakpoint triggers when
its condition becomes true, and triggers again only after the condition was false.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gradscope.agent.commands.queue import Boundary, Prepared
from gradscope.agent.monitors.pause import Pause, check_lease
from gradscope.agent.observation.observed_step import ObservedStep
from gradscope.agent.run.context import RunContext
from gradscope.agent.step.engine import StepEngine
from gradscope.agent.step.plugins import StepPlugin
from gradscope.columns import Block
from gradscope.errors import UsageError
from gradscope.protocol import BreakpointState, Command
from gradscope.rules import Condition, StepView, parse_condition

__all__ = ["Breakpoint", "Breakpoints"]

_LIMIT = 50


@dataclass(slots=True)
class Breakpoint:
    """One breakpoint. `was_true`: the condition was true at its last evaluation and has already triggered."""

    id: str
    condition: Condition
    set_by: str
    lease_s: float
    hits: int = 0
    was_true: bool = False


@dataclass(slots=True)
class _StepData:
    """The statistics and scalars of one step that were received since the last step boundary."""

    layers: Sequence[str] = ()
    block: Block | None = None
    scalars: dict[str, float] = field(default_factory=dict)


class Breakpoints(StepPlugin):
    """The breakpoints of one run. Add this plugin to the engine before the pause."""

    name = "breakpoints"

    def __init__(self, run: RunContext, engine: StepEngine, pause: Pause) -> None:
        self._run = run
        self._engine = engine
        self._pause = pause
        self._numbers = itertools.count(1)
        self._breakpoints: dict[str, Breakpoint] = {}
        self._pending: dict[int, _StepData] = {}

    @property
    def are_set(self) -> bool:
        """Whether any breakpoint is set."""
        return bool(self._breakpoints)

    def states(self) -> tuple[BreakpointState, ...]:
        """Return the state of all breakpoints."""
        return tuple(
            BreakpointState(each.id, each.condition.text, each.set_by, each.hits)
            for each in list(self._breakpoints.values())
        )

    def check(self, text: object) -> Condition:
        """Parse a condition. Raises UsageError if it is invalid or names a layer that does not exist."""
        condition = parse_condition(text)
        condition.check_layers(list(self._engine.tracker.names))
        if len(self._breakpoints) >= _LIMIT:
            raise UsageError(f"expected at most {_LIMIT} breakpoints in a run; remove one first")
        return condition

    def add(
        self, condition: Condition, *, set_by: str, lease_s: float, label: str | None = None
    ) -> Breakpoint:
        """Set a breakpoint with a validated condition."""
        name = f"break-{label or next(self._numbers)}"
        added = self._breakpoints[name] = Breakpoint(name, condition, set_by, lease_s)
        self._run.plan_again()
        self._publish()
        return added

    def remove(self, id: str) -> bool:
        """Remove a breakpoint, or all if `id` is empty; return whether any was removed."""
        gone = list(self._breakpoints) if not id else [id]
        found = [self._breakpoints.pop(each, None) for each in gone]
        self._publish()
        return any(found)

    def next_active_step(self, step: int) -> int | None:
        """Return `step` if any breakpoint is set."""
        return step if self._breakpoints else None

    def at_boundary(self, step: int) -> None:
        """Evaluate the received data, and conditions on step numbers for the step about to begin."""
        if self._pending:
            pending, self._pending = self._pending, {}
            for before, data in sorted(pending.items()):
                view = StepView(before, data.layers, data.block, scalars=data.scalars)
                self._judge(view, lambda c: not c.is_of_steps_only, is_shared=False)
        if self._breakpoints:
            self._judge(StepView(step, (), None), lambda c: c.is_of_steps_only, is_shared=True)

    def on_scalars(self, step: int, values: dict[str, float]) -> None:
        """Store the logged scalars of a step for the next step boundary."""
        if self._breakpoints:
            self._pending.setdefault(step, _StepData()).scalars = values

    def on_nonfinite(self) -> None:
        """Trigger the breakpoints on nonfinite values."""
        for each in list(self._breakpoints.values()):
            if each.condition.is_about_finite and not each.was_true:
                self._hit(each, "gradients that are not finite", is_shared=False)

    def observed(self, step: ObservedStep) -> None:
        """Store the statistics of an observed step for the next step boundary."""
        if self._breakpoints:
            data = self._pending.setdefault(step.step, _StepData())
            data.layers, data.block = step.names, step.block

    def commands(self) -> dict[str, Callable[[Command], Prepared]]:
        """Return a dict from each action to the function that validates its commands."""
        return {"break": self._prepare_break, "unbreak": self._prepare_unbreak}

    def _judge(self, view: StepView, is_meant: Callable[[Condition], bool], *, is_shared: bool) -> None:
        for each in list(self._breakpoints.values()):
            if not is_meant(each.condition):
                continue
            why = each.condition.evaluate(view)
            if why is None:
                is_known = view.block is not None or not each.condition.needs_columns
                each.was_true = each.was_true and not is_known
            elif not each.was_true:
                self._hit(each, why, is_shared=is_shared)

    def _hit(self, each: Breakpoint, why: str, *, is_shared: bool) -> None:
        """Pause because of a breakpoint. `is_shared`: all ranks evaluate the condition to the same result."""
        each.was_true, each.hits = True, each.hits + 1
        self._run.breakpoints = self.states()
        reason = f"{each.id}, {each.condition.text}: {why}"
        self._run.event("info", "breakpoint", reason)
        self._pause.pause_all(
            lease_s=each.lease_s, set_by=each.set_by, reason=reason, is_shared=is_shared
        )

    def _publish(self) -> None:
        self._run.breakpoints = self.states()
        self._run.publish_interventions()

    def _prepare_break(self, command: Command) -> Prepared:
        condition = self.check(command.condition)
        lease_s = check_lease(command.lease_s)

        def apply(command_slot: Boundary) -> None:
            set_by = command.set_by or command.peer
            added = self.add(condition, set_by=set_by, lease_s=lease_s, label=command_slot.label)
            command_slot.done(command_slot.step, added.id)

        return apply

    def _prepare_unbreak(self, command: Command) -> Prepared:
        def apply(command_slot: Boundary) -> None:
            if command.target and command.target not in self._breakpoints:
                existing = ", ".join(self._breakpoints) or "none"
                raise UsageError(
                    f"breakpoint {command.target!r} does not exist; existing ones: {existing}"
                )
            self.remove(command.target)
            command_slot.done(command_slot.step)

        return apply
