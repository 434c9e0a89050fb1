"""When an intervention acts, and how strongly: functions over a `Schedule`."""

import math
from collections.abc import Sequence

from gradscope.catalogue import Argument, Arguments, Value
from gradscope.errors import UsageError
from gradscope.intervene.condition import parse_condition
from gradscope.protocol import Ramp, Schedule

__all__ = ["acts_in", "arguments_in", "check_schedule", "is_over"]

_STEEPNESS = 10.0
"""Steepness of the sigmoid ramp in Ganin and Lempitsky, "Unsupervised domain adaptation by backpropagation"."""


def check_schedule(
    schedule: Schedule, action: str, arguments: Sequence[Argument], *, may_have_condition: bool = True
) -> Schedule:
    """Return the validated schedule. A ramp without an argument name applies to the first numeric argument.

    Raises UsageError if the intervention could never act, or if the ramp names an unknown argument.
    """
    start, end = schedule.start_step, schedule.end_step
    if start is not None and end is not None and end <= start:
        raise UsageError(f"{action}: it would act in no step: start_step is {start}, end_step is {end}")
    if schedule.every_steps < 1:
        raise UsageError(f"{action}: every_steps must be at least 1, got {schedule.every_steps}")
    ramp = schedule.ramp
    if ramp is not None:
        if not ramp.argument:
            first = next((a.name for a in arguments if a.kind == "number"), "")
            ramp = Ramp(first, ramp.start, ramp.end, ramp.steps, ramp.shape)
        _check_ramp(ramp, action, arguments)
    if schedule.condition:
        if not may_have_condition:
            raise UsageError(f"{action} takes no condition: it does not read the gradient")
        parse_condition(schedule.condition)
    every, condition = schedule.every_steps, schedule.condition
    return Schedule(start, end, every, ramp, condition)


def _check_ramp(ramp: Ramp, action: str, arguments: Sequence[Argument]) -> None:
    numbers = {a.name: a for a in arguments if a.kind == "number"}
    if ramp.argument not in numbers:
        known = ", ".join(numbers) or "none"
        raise UsageError(
            f"{action}: expected a ramp of one of the numeric arguments ({known}), got {ramp.argument!r}"
        )
    if ramp.steps < 1:
        raise UsageError(f"{action}: a ramp takes at least 1 step, got {ramp.steps}")
    if ramp.shape not in ("linear", "dann"):
        raise UsageError(
            f"{action}: expected the shape of a ramp to be 'linear' or 'dann', got {ramp.shape!r}"
        )
    for value in (ramp.start, ramp.end):
        numbers[ramp.argument].check(action, value)
        if math.isinf(value):
            raise UsageError(f"{action}: a ramp goes between finite numbers, got {value}")


def acts_in(schedule: Schedule, since: int, step: int) -> bool:
    """Return whether the intervention acts in a step, ignoring its condition. `since`: first in force."""
    return step >= since and (step - since) % schedule.every_steps == 0


def is_over(schedule: Schedule, step: int) -> bool:
    """Return whether the intervention acts neither in this step nor in a later one."""
    return schedule.end_step is not None and step >= schedule.end_step


def arguments_in(schedule: Schedule, arguments: Arguments, since: int, step: int) -> dict[str, Value]:
    """Return the argument values in a step; the ramp determines the value of its argument."""
    now = dict(arguments)
    if schedule.ramp is not None:
        now[schedule.ramp.argument] = _ramp_value(schedule.ramp, step - since)
    return now


def _ramp_value(ramp: Ramp, done: int) -> float:
    if done >= ramp.steps:
        return ramp.end
    part = max(0, done) / ramp.steps
    if ramp.shape == "dann":
        part = 2.0 / (1.0 + math.exp(-_STEEPNESS * part)) - 1.0
    return ramp.start + (ramp.end - ramp.start) * part
