"""The arguments that an action takes: types, ranges and defaults, and what is refused at the door."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from gradscope.errors import UsageError

__all__ = ["Argument", "Arguments", "Value", "check_arguments"]

Value: TypeAlias = float | bool | str
Arguments: TypeAlias = Mapping[str, Value]


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument; it must be given where it has no default.

    A `number` or `whole` number has a range, a `choice` its options; `yes` is True or False. Whole
    numbers are kept as floats, which is how they travel.
    """

    name: str
    help: str
    kind: Literal["number", "whole", "yes", "choice"] = "number"
    default: Value | None = None
    lowest: float = -math.inf
    highest: float = math.inf
    is_lowest_allowed: bool = True
    may_be_infinite: bool = False
    options: tuple[str, ...] = ()

    def check(self, action: str, value: object) -> Value:
        """Return the value. Raises UsageError where it is of another type or out of range."""
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
        is_low = number < self.lowest or (number == self.lowest and not self.is_lowest_allowed)
        is_out = is_low or number > self.highest or (math.isinf(number) and not self.may_be_infinite)
        if math.isnan(number) or is_out or (self.kind == "whole" and not number.is_integer()):
            raise UsageError(f"{action}: {self.name} must be {self.range_in_words}, got {value!r}")
        return number

    @property
    def range_in_words(self) -> str:
        """What numbers it takes."""
        kind = "a whole number" if self.kind == "whole" else "a finite number"
        words = [kind if not self.may_be_infinite else "a number"]
        if self.lowest > -math.inf:
            words.append(
                f"{'of at least' if self.is_lowest_allowed else 'greater than'} {self.lowest:g}"
            )
        if self.highest < math.inf:
            words.append(f"{'and' if len(words) > 1 else 'of'} at most {self.highest:g}")
        return " ".join(words)


def check_arguments(
    action: str, arguments: Sequence[Argument], given: Mapping[str, object]
) -> dict[str, Value]:
    """Return all arguments of an action, defaults filled in.

    Raises UsageError for one that is missing, unknown, of another type, or out of range.
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
