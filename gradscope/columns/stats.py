"""`Stats`: the statistics of one tensor, or of several merged ones."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from gradscope.columns.derived import derive_from
from gradscope.columns.histogram import binades_of
from gradscope.columns.schema import COLUMNS, Flags, Merge
from gradscope.errors import NotMeasuredError, UsageError

__all__ = ["PlainStats", "Stats", "merge_stats"]

PlainStats: TypeAlias = dict[str, float | int | list[int] | None]
"""A row as plain data."""


@dataclass(frozen=True, slots=True)
class Stats:
    """The statistics of one row. All numbers except the counts are over finite elements only.

    `zero`, `subnormal` and `histogram` are None at core detail, which does not measure them. `min` and
    `max` are +inf and -inf if there is no finite element, so that merging stays exact.
    `histogram` has 128 bins, described in `gradscope.columns.histogram`; `binades` is easier to read.
    `digest` is a 64-bit number of all indices and bits of the elements, as stored: equal tensors have equal digests,
    and different ones differ (by chance, two are equal in one of 2^62 cases). Of `update`, it is the digest of the
    parameter after the step. None without `attach(digest=True)`, and if a part of the row has no digest.
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
    histogram: tuple[int, ...] | None = None
    digest: int | None = None

    @property
    def is_measured(self) -> bool:
        """Whether the row was measured: False if a hook was installed and never called."""
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
        """The mean; NaN if there is no finite element."""
        return self._derive("mean")

    @property
    def std(self) -> float:
        """The population standard deviation; NaN if there is no finite element."""
        return self._derive("std")

    @property
    def rms(self) -> float:
        """The root of the mean square; NaN if there is no finite element."""
        return self._derive("rms")

    @property
    def norm(self) -> float:
        """The Euclidean norm."""
        return self._derive("norm")

    @property
    def absmax(self) -> float:
        """The greatest magnitude; NaN if there is no finite element."""
        return self._derive("absmax")

    @property
    def binades(self) -> dict[int, int] | None:
        """Number of elements of both signs by exponent floor(log2|x|), without empty exponents.

        None at core detail. -47 also counts smaller elements, 16 larger ones.
        """
        return None if self.histogram is None else binades_of(self.histogram)

    def _derive(self, name: str) -> float:
        return float(derive_from(name, lambda column: np.array(getattr(self, column), np.float64)))

    def to_dict(self) -> PlainStats:
        """Return columns, derived quantities and the histogram by name; None if not measured."""
        if not self.is_measured:
            return dict.fromkeys((*_COUNT_NAMES, *_DERIVED_NAMES, "histogram", "digest"))
        bins = None if self.histogram is None else list(self.histogram)
        return {name: getattr(self, name) for name in (*_COUNT_NAMES, *_DERIVED_NAMES)} | {
            "histogram": bins,
            "digest": self.digest,
        }


_COUNT_NAMES = tuple(column.name for column in COLUMNS if column.is_count)
_DERIVED_NAMES = ("mean", "std", "rms", "norm", "min", "max", "absmax")


def merge_stats(parts: Iterable[Stats]) -> Stats:
    """Merge rows into one, flagged MERGED if there are several.

    If a part was not measured, the result is *not measured*. Raises UsageError if there are no parts.
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
    return Stats(**merged, flags=flags, histogram=_merged_bins(rows), digest=_merged_digest(rows))  # type: ignore[arg-type]  # one value per field, by the schema


def _merged_digest(rows: Iterable[Stats]) -> int | None:
    digests = [row.digest for row in rows]
    known = [digest for digest in digests if digest is not None]
    return sum(known) % 2**64 or None if len(known) == len(digests) else None


def _merged_bins(rows: Iterable[Stats]) -> tuple[int, ...] | None:
    parts = [row.histogram for row in rows]
    known = [bins for bins in parts if bins is not None]
    return tuple(map(sum, zip(*known, strict=True))) if len(known) == len(parts) else None


_REDUCE: dict[Merge, Callable[[Iterable[float]], float]] = {
    Merge.ADD: sum,
    Merge.MIN: min,
    Merge.MAX: max,
}


def not_measured(layer: str, kind: str, known: Iterable[str]) -> NotMeasuredError:
    """Return the error for a row that does not exist."""
    kinds = ", ".join(sorted(known)) or "nothing"
    return NotMeasuredError(
        f"{kind!r} of layer {layer!r} was not measured in this step; measured there: {kinds}"
    )
