"""Interventions in words: short for a cell, whole for a line, and the one sentence before applying.

One table holds what each intervention is called, which key chooses it, and what it does to a gradient.
"""
# ruff: noqa: RUF001 - the signs are meant

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gradscope.protocol import ActionInfo, InterventionState, Ramp, Schedule, schedule_in_words
from gradscope_tui.view.numbers import plain_number

__all__ = [
    "ACTIONS",
    "Action",
    "actions_of",
    "in_force",
    "layers_in_words",
    "sentence",
    "short",
    "what",
    "whole_line",
]


class Change(Protocol):
    """What of a change the sentence tells."""

    @property
    def arguments(self) -> tuple[tuple[str, float], ...]:
        """The numbers."""

    @property
    def choices(self) -> tuple[tuple[str, str], ...]:
        """The other arguments."""

    @property
    def layers(self) -> tuple[str, ...]:
        """On which layers."""

    @property
    def site(self) -> str:
        """Where on them."""


@dataclass(frozen=True, slots=True)
class Action:
    """One kind of intervention. `{alpha}` in `effect` is the value of that argument."""

    key: str
    name: str
    verb: str
    meaning: str
    effect: str


ACTIONS: tuple[Action, ...] = (
    Action("r", "reverse", "reverse", "turn the gradient round", "is multiplied by −{alpha}"),
    Action("s", "scale", "scale", "multiply the gradient", "is multiplied by {factor}"),
    Action("c", "clip", "clip", "bound its norm", "is scaled down to a norm of at most {max_norm}"),
    Action("l", "clamp", "clamp", "bound each element", "has each element held within ±{limit}"),
    Action(
        "x", "stop", "stop", "let nothing through", "becomes zero: nothing before it learns from it"
    ),
    Action("n", "noise", "noise", "add Gaussian noise", "gets Gaussian noise of deviation {std} added"),
    Action(
        "f", "replace_nonfinite", "mend", "replace NaN and Inf", "has {value} for each NaN and infinity"
    ),
    Action("t", "straight_through", "pass", "pass it by the layer", "goes to its input as it is"),
    Action("S", "scale_activation", "scale", "multiply the output", "is multiplied by {factor}"),
    Action("L", "clamp_activation", "clamp", "bound the output", "is held within ±{limit}"),
    Action("Z", "zero_activation", "ablate", "zeros for the output", "becomes zero"),
    Action(
        "N", "noise_activation", "noise", "noise on the output", "gets noise of deviation {std} added"
    ),
    Action(
        "B", "round_activation", "round", "a lower precision", "is rounded to the precision of {dtype}"
    ),
)

_SHORT = {
    "reverse": "reverse ×−{alpha}",
    "scale": "scale ×{factor}",
    "clip": "clip ≤{max_norm}",
    "clamp": "clamp ±{limit}",
    "stop": "stop",
    "noise": "noise σ {std}",
    "replace_nonfinite": "NaN, Inf → {value}",
    "straight_through": "straight through",
    "scale_activation": "output ×{factor}",
    "clamp_activation": "output ±{limit}",
    "zero_activation": "output = 0",
    "noise_activation": "output + σ {std}",
    "round_activation": "output as {dtype}",
}

_PLACES = {
    "gradient": {
        "output": "the gradient arriving at the output of {}",
        "input": "the gradient leaving through the input of {}",
        "params": "the gradient of the parameters of {}, just before the optimizer steps,",
    },
    "value": {"output": "the output of {}", "input": "what is given to {}"},
    "passage": {"output": "the gradient arriving at the output of {}"},
}


def actions_of(infos: Sequence[ActionInfo]) -> tuple[tuple[Action, ActionInfo], ...]:
    """Return what a run can do with the words for it; the script's own get the digits as keys."""
    known = {action.name: action for action in ACTIONS}
    digits = iter("123456789")
    found: list[tuple[Action, ActionInfo]] = []
    for info in infos:
        action = known.get(info.name)
        if action is None and (key := next(digits, "")):
            action = Action(key, info.name, info.name, info.help, f"is changed by {info.name}")
        if action is not None:
            found.append((action, info))
    return tuple(found)


def short(name: str, arguments: Mapping[str, float | str]) -> str:
    """Return an intervention in a few cells: `clip ≤1`."""
    words = {key: _trimmed(value) for key, value in arguments.items()}
    try:
        return _SHORT[name].format(**words)
    except KeyError:
        return " ".join([name, *(f"{key}={value}" for key, value in words.items())])


def what(state: InterventionState) -> str:
    """Return what an intervention does, in a few cells, and where if not at the output."""
    words = short(state.action, {**state.arguments, **state.choices})
    return words if state.site == "output" else f"{words} at {state.site}"


def layers_in_words(layers: Sequence[str], most: int = 3) -> str:
    """Return `blocks.0.fc1`, or `5 layers (a, b, c and 2 more)`."""
    names = [name or "the whole model" for name in layers]
    if len(names) == 1:
        return names[0]
    rest = len(names) - most
    listed = ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
    return f"{len(names)} layers ({listed})"


def in_force(state: InterventionState, step: int | None = None) -> str:
    """Return since when: `active since step 412`, `pending`, or `from step 500 on`."""
    since = state.active_since
    if since is None:
        return "pending"
    is_to_come = step is not None and since > step + 1
    return f"from step {since:,} on" if is_to_come else f"active since step {since:,}"


def whole_line(state: InterventionState) -> str:
    """Return an intervention in a line: what, where, since when."""
    return f"{what(state)} on {layers_in_words(state.layers, 2)}, {in_force(state)}"


def _trimmed(value: float | str) -> str:
    if isinstance(value, str):
        return value
    text = plain_number(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def sentence(
    action: Action, info: ActionInfo, change: Change, end: str, schedule: Schedule | None = None
) -> str:
    """Return in one sentence what will happen; it is the question that `enter` answers."""
    values: dict[str, float | str] = {**dict(change.arguments), **dict(change.choices)}
    shown = {name: _trimmed(value) for name, value in values.items()}
    schedule = schedule or Schedule()
    ramp = _named(schedule.ramp, change)
    if ramp is not None:  # the number that was typed is not what acts
        shown[ramp.argument] = ramp.argument
    effect = action.effect.format(**shown)
    if not any(a.name == action.name for a in ACTIONS):
        given = ", ".join(f"{name} {_trimmed(value)}" for name, value in values.items())
        effect += f" with {given}" if given else ""
    place = _PLACES[info.what][change.site].format(layers_in_words(change.layers))
    on = " before it flows on" if info.what == "gradient" and change.site != "params" else ""
    start = schedule.start_step
    first = "the next step" if start is None else f"step {start:,}"
    rest = Schedule(None, schedule.end_step, schedule.every_steps, ramp, schedule.condition)
    when = schedule_in_words(rest)
    return f"From {first} on, {place} {effect}{on}{', ' + when if when else ''}; {end}."


def _named(ramp: Ramp | None, change: Change) -> Ramp | None:
    """Return a ramp with the name of its argument, which is the first number where none is given."""
    if ramp is None or ramp.argument or not change.arguments:
        return ramp
    return Ramp(change.arguments[0][0], ramp.start, ramp.end, ramp.steps, ramp.shape)
