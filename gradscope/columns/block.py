"""`Block`: the rows of one observed step as NumPy arrays, one array for each column.

The agent reads its row buffer out as a block, a `step` message carries one, and viewers keep them. Row i
belongs to layer `layer[i]` (an index into the manifest's layers) and kind `kinds[kind[i]]`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.columns.derived import DERIVATIONS, derive_from
from gradscope.columns.histogram import HISTOGRAM_BINS, Histograms, add_by_group
from gradscope.columns.schema import COLUMN_NAMES, COLUMNS, CORE_COLUMNS, Flags, Merge
from gradscope.columns.stats import Stats
from gradscope.errors import NotMeasuredError, UsageError

__all__ = ["GROUP_REDUCE", "Block", "merge_block", "stats_of_row"]

_Integers: TypeAlias = NDArray[np.uint32]
_Bytes: TypeAlias = NDArray[np.uint8]
Digests: TypeAlias = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Block:
    """n rows. `layer`, `kind`, `flags` and each array of `values` have shape (n,).

    `values` maps the name of a column to float64 values or integer counts. A column that was not measured
    is absent, never filled with zeros. `histogram` has the bins of each row, shape
    (n, HISTOGRAM_BINS); None if it was not measured. `digest` has the digest of each row, uint64 of shape
    (n,), 0 for a row without one; None if digests were not measured.
    """

    kinds: tuple[str, ...]
    layer: _Integers
    kind: _Integers
    flags: _Bytes
    values: Mapping[str, NDArray[np.generic]]
    histogram: Histograms | None = None
    digest: Digests | None = None

    def __post_init__(self) -> None:
        rows = len(self.layer)
        for name, array in self.values.items():
            if name not in COLUMN_NAMES:
                raise UsageError(f"unknown column {name!r}; expected one of {COLUMN_NAMES}")
            if array.shape != (rows,):
                raise UsageError(f"column {name!r} has shape {array.shape}, expected ({rows},)")
        if self.kind.shape != (rows,) or self.flags.shape != (rows,):
            raise UsageError(f"layer, kind and flags must all have shape ({rows},)")
        if self.histogram is not None and self.histogram.shape != (rows, HISTOGRAM_BINS):
            raise UsageError(
                f"the histogram has shape {self.histogram.shape}, expected ({rows}, {HISTOGRAM_BINS})"
            )
        if self.digest is not None and self.digest.shape != (rows,):
            raise UsageError(f"the digests have shape {self.digest.shape}, expected ({rows},)")

    def __len__(self) -> int:
        return len(self.layer)

    @property
    def nbytes(self) -> int:
        """The size of all arrays in bytes."""
        where = self.layer.nbytes + self.kind.nbytes + self.flags.nbytes
        bins = 0 if self.histogram is None else self.histogram.nbytes
        digest = 0 if self.digest is None else self.digest.nbytes
        return where + bins + digest + sum(array.nbytes for array in self.values.values())

    def column(self, name: str) -> NDArray[np.float64]:
        """Return a column as float64, read-only; all NaN if it was not measured.

        Raises UsageError for a name that is not a column, so that a typo does not look like "not measured".
        """
        if name not in COLUMN_NAMES:
            raise UsageError(f"unknown column {name!r}; expected one of {COLUMN_NAMES}")
        array = self.values.get(name)
        if array is None:
            return np.full(len(self), np.nan)
        return array.astype(np.float64, copy=False)

    def taken(self, rows: NDArray[np.bool_] | NDArray[np.intp] | slice) -> "Block":
        """Return a block of the rows selected by a mask, by indices or by a slice."""
        return Block(
            self.kinds,
            self.layer[rows],
            self.kind[rows],
            self.flags[rows],
            {name: array[rows] for name, array in self.values.items()},
            None if self.histogram is None else self.histogram[rows],
            None if self.digest is None else self.digest[rows],
        )

    def derive(self, name: str) -> NDArray[np.float64]:
        """Return the derived quantity `name` of each row: mean, std, rms, norm, absmax, finite or nonfinite.

        The result is float64 of shape (n,); NaN for a row that was not measured. Raises UsageError for
        another name.
        """
        if name not in DERIVATIONS:
            raise UsageError(f"nothing derives {name!r}; expected one of {tuple(DERIVATIONS)}")
        value = derive_from(name, self.column)
        unknown = (self.flags & Flags.NOT_MEASURED).astype(bool)
        return np.where(unknown, np.nan, value)


def stats_of_row(block: Block, row: int) -> Stats:
    """Return one row of a block as Stats. Raises NotMeasuredError if a core column is absent."""
    missing = CORE_COLUMNS.difference(block.values)
    if missing:
        raise NotMeasuredError(f"the columns {sorted(missing)} were not measured in this step")
    fields: dict[str, int | float | None] = {c.name: None for c in COLUMNS if not c.is_core}
    for column in COLUMNS:
        array = block.values.get(column.name)
        if array is not None:
            fields[column.name] = int(array[row]) if column.is_count else float(array[row])
    bins = None if block.histogram is None else tuple(block.histogram[row].tolist())
    digest = None if block.digest is None else int(block.digest[row]) or None
    return Stats(**fields, flags=Flags(int(block.flags[row])), histogram=bins, digest=digest)  # type: ignore[arg-type]  # one value per field, by the schema


def merge_block(block: Block, groups: NDArray[np.intp], group_count: int) -> Block:
    """Merge the rows of each group into one row, flagged MERGED.

    `groups` has shape (n,): the group of each row, from 0 to `group_count` - 1. Row g of the result is
    group g and keeps the kind of that group's first row; its `layer` is g. A group without rows is
    flagged NOT_MEASURED.
    """
    sizes = np.bincount(groups, minlength=group_count)
    flags = np.zeros(group_count, np.uint8)
    np.bitwise_or.at(flags, groups, block.flags)
    flags[sizes > 1] |= np.uint8(Flags.MERGED)
    flags[sizes == 0] |= np.uint8(Flags.NOT_MEASURED)
    kind = np.zeros(group_count, np.uint32)
    kind[groups[::-1]] = block.kind[::-1]
    values: dict[str, NDArray[np.generic]] = {}
    for column in COLUMNS:
        if column.name in block.values:
            start, reduce = GROUP_REDUCE[column.merge]
            merged = np.full(group_count, start, np.uint64 if column.is_count else np.float64)
            reduce.at(merged, groups, block.values[column.name].astype(merged.dtype))
            values[column.name] = merged
    bins = None if block.histogram is None else add_by_group(block.histogram, groups, group_count)
    digest = None if block.digest is None else _added_digests(block.digest, groups, group_count)
    layer = np.arange(group_count, dtype=np.uint32)
    return Block(block.kinds, layer, kind, flags, values, bins, digest)


def _added_digests(digests: Digests, groups: NDArray[np.intp], group_count: int) -> Digests:
    """Return the sum of the digests of each group modulo 2^64; 0 if a row of the group has none."""
    sums = np.zeros(group_count, np.uint64)
    np.add.at(sums, groups, digests)
    sums[groups[digests == 0]] = 0
    return sums


GROUP_REDUCE: dict[Merge, tuple[float, np.ufunc]] = {
    Merge.ADD: (0, np.add),
    Merge.MIN: (np.inf, np.minimum),
    Merge.MAX: (-np.inf, np.maximum),
}
