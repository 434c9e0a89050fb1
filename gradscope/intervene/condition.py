"""Conditions of interventions (`when=`): `norm > 10`, `absmax > 1e3 and nan == 0`.

`gradscope/catalogue/expressions.py` defines the language. Statistics are computed over the finite
elements (for complex tensors, over their magnitudes); `nan`, `inf` and `zero` count elements. A
condition is computed on the tensor's own device, without synchronisation. The formulas of
`columns.derived` are for NumPy, so they are repeated here for tensors; a test compares both.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from gradscope.catalogue.expressions import Combination, Expression, Vocabulary, parse_expression

__all__ = ["STATISTICS", "Condition", "parse_condition"]

STATISTICS = ("norm", "rms", "mean", "std", "min", "max", "absmax", "nan", "inf", "zero")
_WORDS = Vocabulary(
    examples="examples: norm > 10, absmax > 1e3 and nan == 0, mean < -1 or std > 5", names=STATISTICS
)
_COMPARE: dict[str, Callable[[Tensor, float], Tensor]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on the statistics of one or several tensors."""

    text: str
    expression: Expression

    def holds(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return whether the combined tensors fulfil the condition, as a tensor on the first one's device."""
        with torch.no_grad():
            records = [_record(tensor) for tensor in tensors]
            return _holds(self.expression, records[0] if len(records) == 1 else _merged(records))


def parse_condition(text: str) -> Condition:
    """Parse a condition. Raises UsageError with the column and what was expected there."""
    return Condition(" ".join(text.split()), parse_expression(text, _WORDS))


_Record = dict[str, Tensor]
_SUMS = ("count", "sum", "sumsq", "nan", "inf", "zero")


def _record(tensor: Tensor) -> _Record:
    """Return the columns from which statistics are derived, in float64 (float32 on MPS)."""
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


def _holds(expression: Expression, record: _Record) -> Tensor:
    if isinstance(expression, Combination):
        parts = [_holds(part, record) for part in expression.parts]
        return reduce(torch.logical_and if expression.needs_all else torch.logical_or, parts)
    return _COMPARE[expression.sign](_derived(record, expression.name), expression.limit)


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
