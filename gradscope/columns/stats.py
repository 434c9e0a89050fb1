"""`Stats`: the statistics of one tensor, or of several merged, as a person reads them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from gradscope.columns import derived
from gradscope.columns.schema import COLUMNS, Flags, Merge
from gradscope.errors import NotMeasuredError, UsageError

__all__ = ["Stats", "merge_stats"]


@dataclass(frozen=True, slots=True)
class Stats:
    """The statistics of one row. All but the counts are over finite elements only.

    `zero` and `subnormal` are None at core detail, where they are not measured. `min` and `max` are
    +inf and -inf where there is no finite element, as an empty record must be to merge.
    """

    calls: int
    count: int
    nan: int
    posinf: int
    neginf: int
    sum: float
    sumsq: float
    min: float
    max: float
    zero: int | None = None
    subnormal: int | None = None
    flags: Flags = Flags.EXACT

    @property
    def is_measured(self) -> bool:
        """Whether anything is known: False where a hook was placed and never fired."""
        return Flags.NOT_MEASURED not in self.flags

    @property
    def finite(self) -> int:
        """The number of finite elements."""
        return self.count - self.nan - self.posinf - self.neginf

    @property
    def nonfinite(self) -> int:
        """The number of elements that are NaN or infinite."""
        return self.nan + self.posinf + self.neginf

    @property
    def mean(self) -> float:
        """The mean; NaN where there is no finite element."""
        return float(derived.mean(np.float64(self.sum), np.float64(self.finite)))  # type: ignore[arg-type]  # a scalar is a 0-d array

    @property
    def std(self) -> float:
        """The population standard deviation; NaN where there is no finite element."""
        return float(
            derived.std(np.float64(self.sum), np.float64(self.sumsq), np.float64(self.finite))  # type: ignore[arg-type]  # as above
        )

    @property
    def rms(self) -> float:
        """The root of the mean square; NaN where there is no finite element."""
        return float(derived.rms(np.float64(self.sumsq), np.float64(self.finite)))  # type: ignore[arg-type]  # as above

    @property
    def norm(self) -> float:
        """The Euclidean norm."""
        return float(np.sqrt(self.sumsq))

    @property
    def absmax(self) -> float:
        """The greatest magnitude; NaN where there is no finite element."""
        return max(abs(self.min), abs(self.max)) if self.finite else float("nan")

    def to_dict(self) -> dict[str, float | int | None]:
        """Return columns and derived numbers by name; what was not measured is None."""
        names = ("calls", "count", "nan", "posinf", "neginf", "zero", "subnormal")
        counts: dict[str, float | int | None] = {name: getattr(self, name) for name in names}
        if not self.is_measured:
            return dict.fromkeys((*names, *_DERIVED_NAMES))
        return counts | {name: getattr(self, name) for name in _DERIVED_NAMES}


_DERIVED_NAMES = ("mean", "std", "rms", "norm", "min", "max", "absmax")


def merge_stats(parts: Iterable[Stats]) -> Stats:
    """Merge rows into one, flagged MERGED when there are several.

    A part that was not measured makes the whole *not measured*: a sum with a hole is no sum. Raises
    UsageError when there are no parts.
    """
    rows = list(parts)
    if not rows:
        raise UsageError("merge_stats needs at least one row, got none")
    if len(rows) == 1:
        return rows[0]
    flags = Flags.MERGED
    for row in rows:
        flags |= row.flags
    merged: dict[str, float | int | None] = {}
    for column in COLUMNS:
        values = [getattr(row, column.name) for row in rows]
        merged[column.name] = None if None in values else _REDUCE[column.merge](values)
    return Stats(**merged, flags=flags)  # type: ignore[arg-type]  # one value a field, by the schema


_REDUCE: dict[Merge, Callable[[Iterable[float]], float]] = {
    Merge.ADD: sum,
    Merge.MIN: min,
    Merge.MAX: max,
}


def not_measured(layer: str, kind: str, known: Iterable[str]) -> NotMeasuredError:
    """Return the error for a row that is not there."""
    kinds = ", ".join(sorted(known)) or "nothing"
    return NotMeasuredError(
        f"{kind!r} of layer {layer!r} was not measured in this step; measured there: {kinds}"
    )
