"""Breakpoints: conditions at which the training pauses at the next boundary.

One that speaks of steps alone is judged before a step begins, and stops there. One that speaks of
logged numbers is judged when they have come, in every step; one that speaks of layers in observed steps
only: with a budget these are few. It stops when it has become true, not for as long as it is.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gradscope.agent.commands.queue import Prepared, QueuedCommand
from gradscope.agent.monitors.pause import check_lease
from gradscope.agent.observation.measurement import FinishedStep
from gradscope.agent.step.plugins import StepPlugin
from gradscope.columns import Block
from gradscope.errors import UsageError
from gradscope.protocol import BreakpointState, Command
from gradscope.rules import Condition, StepView, parse_condition

__all__ = ["Breakpoint", "Breakpoints"]

_LIMIT = 50


@dataclass(slots=True)
class Breakpoint:
    """One breakpoint. `was_true`: it has stopped already for what holds now."""

    id: str
    condition: Condition
    set_by: str
    lease_s: float
    hits: int = 0
    was_true: bool = False


@dataclass(slots=True)
class _Come:
    """What has come of one step since the last boundary."""

    layers: Sequence[str] = ()
    block: Block | None = None
    scalars: dict[str, float] = field(default_factory=dict)


class Breakpoints(StepPlugin):
    """The breakpoints of one run; to be added to the engine before the gate.

    `stop(breakpoint, why, is_shared)` closes the gate; `is_shared`: all ranks judge the same.
    """

    name = "breakpoints"

    def __init__(
        self,
        names: Callable[[], Sequence[str]],
        *,
        stop: Callable[[Breakpoint, str, bool], None],
        announce: Callable[[], None],
    ) -> None:
        self._names = names
        self._stop = stop
        self._announce = announce
        self._numbers = itertools.count(1)
        self._there: dict[str, Breakpoint] = {}
        self._news: dict[int, _Come] = {}

    @property
    def are_set(self) -> bool:
        """Whether there are any."""
        return bool(self._there)

    def states(self) -> tuple[BreakpointState, ...]:
        """Return all of them as data."""
        return tuple(
            BreakpointState(each.id, each.condition.text, each.set_by, each.hits)
            for each in list(self._there.values())
        )

    def check(self, text: object) -> Condition:
        """Return a condition that speaks of this model. Raises UsageError for anything else."""
        condition = parse_condition(text)
        condition.check_layers(list(self._names()))
        if len(self._there) >= _LIMIT:
            raise UsageError(f"a run has at most {_LIMIT} breakpoints; remove one first")
        return condition

    def add(
        self, condition: Condition, *, set_by: str, lease_s: float, label: str | None = None
    ) -> Breakpoint:
        """Set a checked breakpoint."""
        name = f"break-{label or next(self._numbers)}"
        there = self._there[name] = Breakpoint(name, condition, set_by, lease_s)
        self.wake()
        self.look_now()
        self._announce()
        return there

    def remove(self, id: str) -> bool:
        """Remove one, or all where `id` is empty; return whether there was any."""
        gone = list(self._there) if not id else [id]
        found = [self._there.pop(each, None) for each in gone]
        self._announce()
        return any(found)

    def at_boundary(self, step: int) -> None:
        """Judge what has come; and, of the step that is about to begin, those of steps alone."""
        if self._news:
            news, self._news = self._news, {}
            for before, come in sorted(news.items()):
                reading = StepView(before, come.layers, come.block, scalars=come.scalars)
                self._judge(reading, lambda c: not c.is_of_steps_only, is_shared=False)
        if self._there:
            self.look_now()
            self._judge(StepView(step, (), None), lambda c: c.is_of_steps_only, is_shared=True)
        self.rest_unless(lambda: self._there)

    def see_scalars(self, step: int, values: dict[str, float]) -> None:
        """Take a step's logged numbers."""
        if self._there:
            self._news.setdefault(step, _Come()).scalars = values

    def see_bad(self) -> None:
        """Stop at those that wait for anything that is not finite: the sentinel has found some."""
        for each in list(self._there.values()):
            if each.condition.is_about_finite and not each.was_true:
                self._hit(each, "gradients that are not finite", is_shared=False)

    def observed(self, finished: FinishedStep) -> None:
        """Take an observed step's columns."""
        if self._there:
            come = self._news.setdefault(finished.step, _Come())
            come.layers, come.block = finished.names, finished.block

    def commands(self) -> dict[str, Callable[[Command], Prepared]]:
        """Return how to prepare each command about breakpoints, by its action."""
        return {"break": self._prepare_break, "unbreak": self._prepare_unbreak}

    def _judge(
        self, reading: StepView, is_meant: Callable[[Condition], bool], *, is_shared: bool
    ) -> None:
        for each in list(self._there.values()):
            if not is_meant(each.condition):
                continue
            why = each.condition.look(reading)
            if why is None:
                is_known = reading.block is not None or not each.condition.needs_columns
                each.was_true = each.was_true and not is_known
            elif not each.was_true:
                self._hit(each, why, is_shared=is_shared)

    def _hit(self, each: Breakpoint, why: str, *, is_shared: bool) -> None:
        each.was_true, each.hits = True, each.hits + 1
        self._stop(each, why, is_shared)

    def _prepare_break(self, command: Command) -> Prepared:
        condition = self.check(command.condition)
        lease_s = check_lease(command.lease_s)

        def apply(turn: QueuedCommand) -> None:
            set_by = command.set_by or command.peer
            there = self.add(condition, set_by=set_by, lease_s=lease_s, label=turn.label)
            turn.done(turn.step, there.id)

        return apply

    def _prepare_unbreak(self, command: Command) -> Prepared:
        def apply(turn: QueuedCommand) -> None:
            if command.target and command.target not in self._there:
                there = ", ".join(self._there) or "none"
                raise UsageError(f"no breakpoint {command.target!r} is set; there are: {there}")
            self.remove(command.target)
            turn.done(turn.step)

        return apply
