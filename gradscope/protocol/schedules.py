"""`Schedule` and `Ramp`: when an intervention acts, as data and as text."""

import re
from typing import Literal

import msgspec

from gradscope.errors import UsageError
from gradscope.names import counted
from gradscope.protocol.fields import Whole

__all__ = ["Ramp", "Schedule", "make_schedule", "parse_ramp", "schedule_in_words"]

_RAMP = re.compile(r"(?:(\w+)=)?([^:=]+):([^:=]+):([^:=]+?)(?::(linear|dann))?")


class Ramp(msgspec.Struct, frozen=True):
    """An argument that changes from `start` to `end` over `steps` steps and then stays constant.

    If `argument` is empty, it is the action's first numeric argument. `shape` is `linear`, or `dann`:
    at progress p from 0 to 1, the fraction `2 / (1 + exp(-10 p)) - 1` of the change.
    """

    argument: str
    start: float
    end: float
    steps: Whole
    shape: Literal["linear", "dann"] = "linear"


class Schedule(msgspec.Struct, frozen=True):
    """The steps in which an intervention acts, and how its strength changes.

    It acts from `start_step` on, before `end_step`, in every `every_steps`-th step, and only if the
    arriving tensor fulfils `condition` (`norm > 10`).
    """

    start_step: Whole | None = None
    end_step: Whole | None = None
    every_steps: Whole = 1
    ramp: Ramp | None = None
    condition: str = ""


def schedule_in_words(schedule: Schedule | None) -> str:
    """Describe a schedule for users; empty for a schedule that acts in every step."""
    words: list[str] = []
    if schedule is None:
        return ""
    if schedule.start_step is not None:
        words.append(f"from step {schedule.start_step}")
    if schedule.end_step is not None:
        words.append(f"until step {schedule.end_step}")
    if schedule.every_steps != 1:
        words.append(f"every {schedule.every_steps} steps")
    if (ramp := schedule.ramp) is not None:
        shape = "" if ramp.shape == "linear" else f" ({ramp.shape})"
        words.append(
            f"{ramp.argument} {ramp.start:g} to {ramp.end:g} in {counted(ramp.steps, 'step')}{shape}"
        )
    if schedule.condition:
        words.append(f"while {schedule.condition}")
    return ", ".join(words)


def make_schedule(
    *,
    start_step: int | None = None,
    end_step: int | None = None,
    every_steps: int = 1,
    ramp: Ramp | str | None = None,
    when: str = "",
) -> Schedule:
    """Return a schedule from user input. Raises UsageError for an invalid step or ramp."""
    for name, step, lowest in (
        ("start_step", start_step, 0),
        ("end_step", end_step, 0),
        ("every_steps", every_steps, 1),
    ):
        if step is not None and (not isinstance(step, int) or step < lowest):
            raise UsageError(f"{name} must be an integer of at least {lowest}, got {step!r}")
    parsed = parse_ramp(ramp) if isinstance(ramp, str) else ramp
    return Schedule(start_step, end_step, every_steps, parsed, when)


def parse_ramp(text: str) -> Ramp:
    """Parse a ramp such as `alpha=0:1:1000`, or `0:1:1000:dann` for the first numeric argument.

    Raises UsageError for any other text.
    """
    match = _RAMP.fullmatch(text.strip())
    name, start, end, steps, shape = match.groups() if match else ("", "", "", "", "")
    try:
        kind: Literal["linear", "dann"] = "dann" if shape == "dann" else "linear"
        return Ramp(name or "", float(start), float(end), int(steps), kind)
    except ValueError:
        raise UsageError(
            "a ramp is ARGUMENT=FROM:TO:STEPS, with :dann for the schedule of domain-adversarial "
            f"training, as alpha=0:1:1000:dann; got {text!r}"
        ) from None
