"""The arguments of interventions: their types, ranges and defaults, and the validation of values."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gradscope.errors import UsageError

__all__ = ["Argument", "Arguments", "Suggestion", "Value", "check_arguments"]

Value: TypeAlias = float | bool | str
Arguments: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A suggested value for a form: `factor` times the largest `statistic` of the chosen layers.

    `otherwise` is the value if the statistic is not known, or if there is no `statistic`.
    """

    otherwise: float
    statistic: str = ""
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument. It is required if it has no default.

    A `number` or `whole` number (an integer) has a range, and a `choice` has options; `yes` is True or
    False. Integers are stored as floats, as in messages.
    """

    name: str
    help: str
    kind: Literal["number", "whole", "yes", "choice"] = "number"
    default: Value | None = None
    lowest: float = -math.inf
    highest: float = math.inf
    may_be_infinite: bool = False
    options: tuple[str, ...] = ()
    suggestion: Suggestion = Suggestion(1.0)

    def check(self, action: str, value: object) -> Value:
        """Return the validated value. Raises UsageError if it has another type or is out of range."""
        if self.kind == "choice":
            if value not in self.options:
                known = ", ".join(self.options)
                raise UsageError(f"{action}: {self.name} must be one of {known}, got {value!r}")
            return str(value)
        if self.kind == "yes":
            if value not in (0, 1):
                raise UsageError(f"{action}: {self.name} must be True or False, got {value!r}")
            return bool(value)
        return self._check_number(action, value)

    def _check_number(self, action: str, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UsageError(f"{action}: {self.name} must be a number, got {value!r}")
        number = float(value)
        is_out = not self.lowest <= number <= self.highest  # also true for NaN
        is_out |= math.isinf(number) and not self.may_be_infinite
        if is_out or (self.kind == "whole" and not number.is_integer()):
            raise UsageError(f"{action}: {self.name} must be {self.range_in_words}, got {value!r}")
        return number

    @property
    def range_in_words(self) -> str:
        """The allowed numbers as text, such as "a finite number of at least 0"."""
        kind = "an integer" if self.kind == "whole" else "a finite number"
        words = [kind if not self.may_be_infinite else "a number"]
        if self.lowest > -math.inf:
            words.append(f"of at least {self.lowest:g}")
        if self.highest < math.inf:
            words.append(f"{'and' if len(words) > 1 else 'of'} at most {self.highest:g}")
        return " ".join(words)


def check_arguments(
    action: str, arguments: Sequence[Argument], given: Mapping[str, object]
) -> dict[str, Value]:
    """Return the value of each argument, using defaults for missing ones.

    Raises UsageError if a required argument is missing, or if one is unknown, of another type or out of
    range.
    """
    known = {argument.name for argument in arguments}
    unknown = sorted(set(given) - known)
    if unknown:
        expected = ", ".join(sorted(known)) or "none"
        raise UsageError(f"{action} takes the arguments: {expected}; got also: {', '.join(unknown)}")
    checked: dict[str, Value] = {}
    for argument in arguments:
        value = given.get(argument.name, argument.default)
        if value is None:
            raise UsageError(f"{action} needs {argument.name}={argument.name.upper()}")
        checked[argument.name] = argument.check(action, value)
    return checked
