"""A condition on what arrives: `norm > 10`, `absmax > 1e3 and nan == 0`.

It is parsed here and never evaluated as code, and computed on the tensor's own device without waiting.

    condition = comparison { "and" comparison } | comparison { "or" comparison }
    comparison = statistic ( ">" | ">=" | "<" | "<=" | "==" | "!=" ) number

The statistics are those of a layer's row: over the finite elements, of complex numbers over their
magnitudes; `nan`, `inf` and `zero` count elements.
"""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from gradscope.errors import UsageError

__all__ = ["STATISTICS", "Condition", "parse_condition"]

STATISTICS = ("norm", "rms", "mean", "std", "min", "max", "absmax", "nan", "inf", "zero")

_COMPARE: dict[str, Callable[[Tensor, float], Tensor]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_COMPARISON = re.compile(r"\s*([a-z]+)\s*(>=|<=|==|!=|>|<)\s*([-+0-9.eE]+|inf|-inf)\s*")
_LONGEST = 200


@dataclass(frozen=True, slots=True)
class Condition:
    """Comparisons that must all hold, or one of them."""

    text: str
    comparisons: tuple[tuple[str, str, float], ...]
    needs_all: bool

    def holds(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return whether it holds of tensors taken as one, as a tensor on the device of the first."""
        with torch.no_grad():
            numbers = [_record(tensor) for tensor in tensors]
            whole = numbers[0] if len(numbers) == 1 else _merged(numbers)
            held = [
                _COMPARE[sign](_derived(whole, name), number) for name, sign, number in self.comparisons
            ]
            return reduce(torch.logical_and if self.needs_all else torch.logical_or, held)


def parse_condition(text: str) -> Condition:
    """Return the condition that a text says. Raises UsageError for any other text."""
    is_long = len(text) > _LONGEST
    words = [] if is_long else re.split(r"\b(and|or)\b", text)
    joints = set(words[1::2])
    comparisons = tuple(_comparison(part) for part in words[::2])
    known = [each for each in comparisons if each is not None]
    if not known or len(known) < len(comparisons) or len(joints) > 1:
        raise UsageError(
            f"a condition is a comparison as `norm > 10`, or several joined by `and` or by `or`; the "
            f"statistics are {', '.join(STATISTICS)}; got {text[:_LONGEST]!r}"
        )
    return Condition(" ".join(text.split()), tuple(known), joints != {"or"})


def _comparison(text: str) -> tuple[str, str, float] | None:
    match = _COMPARISON.fullmatch(text)
    if match is None or match[1] not in STATISTICS:
        return None
    try:
        return match[1], match[2], float(match[3])
    except ValueError:
        return None


_Record = dict[str, Tensor]
_SUMS = ("count", "sum", "sumsq", "nan", "inf", "zero")


def _record(tensor: Tensor) -> _Record:
    """Return what the statistics are derived from, in float64 (float32 where a device lacks it)."""
    values = tensor.detach()
    values = values.abs() if values.is_complex() else values
    values = values.to(torch.float32 if values.device.type == "mps" else torch.float64)
    is_finite = values.isfinite()
    finite = values.masked_fill(~is_finite, 0.0)
    flat = finite.flatten()
    infinity = torch.full((1,), torch.inf, dtype=flat.dtype, device=flat.device)
    return {
        "count": is_finite.sum(),
        "sum": finite.sum(),
        "sumsq": finite.square().sum(),
        "nan": values.isnan().sum(),
        "inf": values.isinf().sum(),
        "zero": (values == 0).sum(),
        "min": torch.cat((values.masked_fill(~is_finite, torch.inf).flatten(), infinity)).amin(),
        "max": torch.cat((values.masked_fill(~is_finite, -torch.inf).flatten(), -infinity)).amax(),
    }


def _merged(records: Sequence[_Record]) -> _Record:
    home = records[0]["sum"].device
    columns = {name: torch.stack([record[name].to(home) for record in records]) for name in records[0]}
    merged = {name: columns[name].sum() for name in _SUMS}
    return {**merged, "min": columns["min"].amin(), "max": columns["max"].amax()}


def _derived(record: _Record, name: str) -> Tensor:
    if name in record:
        return record[name]
    if name == "absmax":
        return torch.maximum(-record["min"], record["max"])
    if name == "norm":
        return record["sumsq"].sqrt()
    count = record["count"].clamp(min=1)
    mean, square = record["sum"] / count, record["sumsq"] / count
    if name == "rms":
        return square.sqrt()
    return mean if name == "mean" else (square - mean.square()).clamp(min=0).sqrt()
