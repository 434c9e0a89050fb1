"""The interventions that there are: one table. Each is a name, its arguments, and a Function to apply.

To add one: an autograd Function in `functional`, an entry here.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from gradscope.errors import UsageError
from gradscope.functional import (
    clamp_gradient,
    clip_gradient_norm,
    noise_gradient,
    reverse_gradient,
    scale_gradient,
)

__all__ = ["ACTIONS", "SITES", "Action", "Argument", "check_action", "check_arguments", "check_site"]

SITES = ("output",)
"""Where an intervention acts. `output`: on the gradient that arrives at the layer's output."""

_Arguments = Mapping[str, float]
_Generator = Callable[[torch.device], torch.Generator]


@dataclass(frozen=True, slots=True)
class Argument:
    """A number that an action takes; it must be given where it has no default."""

    name: str
    default: float | None = None
    lowest: float = -math.inf
    is_lowest_allowed: bool = True
    may_be_infinite: bool = False

    def check(self, action: str, value: object) -> float:
        """Return the value as a float. Raises UsageError where it is none or out of range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{action}: {self.name} must be a number, got {value!r}")
        number = float(value)
        is_low = number < self.lowest or (number == self.lowest and not self.is_lowest_allowed)
        if math.isnan(number) or is_low or (math.isinf(number) and not self.may_be_infinite):
            raise UsageError(f"{action}: {self.name} must be {self._range()}, got {value!r}")
        return number

    def _range(self) -> str:
        kind = "a number" if self.may_be_infinite else "a finite number"
        if self.lowest == -math.inf:
            return kind
        return f"{kind} {'of at least' if self.is_lowest_allowed else 'greater than'} {self.lowest:g}"


@dataclass(frozen=True, slots=True)
class Action:
    """One kind: `apply(tensor, arguments, generator)` gives the tensor to go on with."""

    name: str
    arguments: tuple[Argument, ...]
    apply: Callable[[torch.Tensor, _Arguments, _Generator], torch.Tensor]


ACTIONS: dict[str, Action] = {
    action.name: action
    for action in (
        Action(
            "reverse",
            (Argument("alpha", default=1.0),),
            lambda x, a, _: reverse_gradient(x, a["alpha"]),
        ),
        Action("scale", (Argument("factor"),), lambda x, a, _: scale_gradient(x, a["factor"])),
        Action(
            "clip",
            (Argument("max_norm", lowest=0.0, may_be_infinite=True),),
            lambda x, a, _: clip_gradient_norm(x, a["max_norm"]),
        ),
        Action(
            "clamp",
            (Argument("limit", lowest=0.0, may_be_infinite=True),),
            lambda x, a, _: clamp_gradient(x, a["limit"]),
        ),
        Action("stop", (), lambda x, _a, _g: scale_gradient(x, 0.0)),
        Action(
            "noise",
            (Argument("std", lowest=0.0), Argument("seed", default=0.0, lowest=0.0)),
            lambda x, a, generator: noise_gradient(x, a["std"], generator(x.device)),
        ),
    )
}


def check_action(name: str) -> Action:
    """Return the action of a name. Raises UsageError with the names that there are."""
    try:
        return ACTIONS[name]
    except KeyError:
        raise UsageError(f"no intervention {name!r}; there are: {', '.join(ACTIONS)}") from None


def check_arguments(action: Action, given: Mapping[str, object]) -> dict[str, float]:
    """Return all arguments of an action as floats, defaults filled in.

    Raises UsageError for one that is missing, unknown, no number, or out of range.
    """
    known = {argument.name for argument in action.arguments}
    unknown = sorted(set(given) - known)
    if unknown:
        expected = ", ".join(sorted(known)) or "none"
        raise UsageError(
            f"{action.name} takes the arguments: {expected}; got also: {', '.join(unknown)}"
        )
    checked: dict[str, float] = {}
    for argument in action.arguments:
        value = given.get(argument.name, argument.default)
        if value is None:
            raise UsageError(f"{action.name} needs {argument.name}={argument.name.upper()}")
        checked[argument.name] = argument.check(action.name, value)
    return checked


def check_site(site: str) -> str:
    """Return the site. Raises UsageError with the sites that there are."""
    if site not in SITES:
        raise UsageError(f"no site {site!r}; there are: {', '.join(SITES)}")
    return site
