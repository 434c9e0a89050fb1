"""Interventions in words: short for a cell, whole for a line, and the one sentence before applying.

One table holds what each intervention is called, which key chooses it, and what it does to a gradient.
"""
# ruff: noqa: RUF001 - the signs are meant

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gradscope.protocol import InterventionState
from gradscope_tui.view.numbers import plain_number

__all__ = [
    "ACTIONS",
    "Action",
    "action_named",
    "in_force",
    "layers_in_words",
    "sentence",
    "short",
    "whole_line",
]


@dataclass(frozen=True, slots=True)
class Action:
    """One kind of intervention. `{}` in `effect` is the value of `argument`, where it takes one."""

    key: str
    name: str
    verb: str
    argument: str
    meaning: str
    effect: str


ACTIONS: tuple[Action, ...] = (
    Action("r", "reverse", "reverse", "alpha", "turn the gradient round", "is multiplied by −{}"),
    Action("s", "scale", "scale", "factor", "multiply the gradient", "is multiplied by {}"),
    Action("c", "clip", "clip", "max_norm", "bound its norm", "is scaled down to a norm of at most {}"),
    Action("l", "clamp", "clamp", "limit", "bound each element", "has each element held within ±{}"),
    Action(
        "x", "stop", "stop", "", "let nothing through", "becomes zero: nothing before it learns from it"
    ),
    Action(
        "n", "noise", "noise", "std", "add Gaussian noise", "gets Gaussian noise of deviation {} added"
    ),
)

_SHORT = {
    "reverse": "reverse ×−{alpha}",
    "scale": "scale ×{factor}",
    "clip": "clip ≤{max_norm}",
    "clamp": "clamp ±{limit}",
    "stop": "stop",
    "noise": "noise σ {std}",
}


def action_named(name: str) -> Action | None:
    """Return the action of that name; None for one that this screen does not know."""
    return next((action for action in ACTIONS if action.name == name), None)


def short(name: str, arguments: Mapping[str, float]) -> str:
    """Return an intervention in a few cells: `clip ≤1`."""
    numbers = {key: _trimmed(value) for key, value in arguments.items()}
    try:
        return _SHORT[name].format(**numbers)
    except KeyError:
        return " ".join([name, *(f"{key}={value}" for key, value in numbers.items())])


def layers_in_words(layers: Sequence[str], most: int = 3) -> str:
    """Return `blocks.0.fc1`, or `5 layers (a, b, c and 2 more)`."""
    names = [name or "the whole model" for name in layers]
    if len(names) == 1:
        return names[0]
    rest = len(names) - most
    listed = ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
    return f"{len(names)} layers ({listed})"


def in_force(state: InterventionState) -> str:
    """Return since when: `active since step 412`, or `pending`."""
    return "pending" if state.active_since is None else f"active since step {state.active_since:,}"


def whole_line(state: InterventionState) -> str:
    """Return an intervention in a line: what, where, since when."""
    what = short(state.action, state.arguments)
    return f"{what} on {layers_in_words(state.layers, 2)}, {in_force(state)}"


def _trimmed(value: float) -> str:
    text = plain_number(value)
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text


def sentence(action: Action, value: float | None, layers: Sequence[str], end: str) -> str:
    """Return in one sentence what will happen; it is the question that `enter` answers."""
    effect = action.effect.format(_trimmed(value)) if value is not None else action.effect
    return (
        f"From the next step on, the gradient arriving at the output of {layers_in_words(layers)} "
        f"{effect} before it flows on; {end}."
    )
