"""`Block`: the rows of one observed step as NumPy arrays, one array a column.

A block is what the board becomes on the host, what a frame carries and what the screen keeps. Row i
belongs to layer `layer[i]` (an index into the manifest's layers) and kind `kinds[kind[i]]`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import derived
from gradscope.columns.schema import COLUMN_NAMES, COLUMNS, CORE_COLUMNS, Flags, Merge
from gradscope.columns.stats import Stats
from gradscope.errors import NotMeasuredError, UsageError

__all__ = ["Block", "merge_block", "stats_of_row"]

_Integers: TypeAlias = NDArray[np.uint32]
_Bytes: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Block:
    """n rows. `layer`, `kind` and `flags` have shape (n,); so has each array of `values`.

    `values` maps a column's name to float64 values or whole counts. A column that was not measured is
    absent: it is never filled with zeros.
    """

    kinds: tuple[str, ...]
    layer: _Integers
    kind: _Integers
    flags: _Bytes
    values: Mapping[str, NDArray[np.generic]]

    def __post_init__(self) -> None:
        rows = len(self.layer)
        for name, array in self.values.items():
            if name not in COLUMN_NAMES:
                raise UsageError(f"unknown column {name!r}; expected one of {COLUMN_NAMES}")
            if array.shape != (rows,):
                raise UsageError(f"column {name!r} has shape {array.shape}, expected ({rows},)")
        if self.kind.shape != (rows,) or self.flags.shape != (rows,):
            raise UsageError(f"layer, kind and flags must all have shape ({rows},)")

    def __len__(self) -> int:
        return len(self.layer)

    def column(self, name: str) -> NDArray[np.float64]:
        """Return a column as float64; all NaN where it was not measured.

        Raises UsageError for a name that is no column: a slip of the pen is not "not measured".
        """
        if name not in COLUMN_NAMES:
            raise UsageError(f"unknown column {name!r}; expected one of {COLUMN_NAMES}")
        array = self.values.get(name)
        if array is None:
            return np.full(len(self), np.nan)
        return array.astype(np.float64)

    def derive(self, name: str) -> NDArray[np.float64]:
        """Return mean, std, rms, norm, absmax, finite or nonfinite of each row as float64.

        A row that was not measured is NaN in all of them. Raises UsageError for another name.
        """
        if name not in _DERIVATIONS:
            raise UsageError(f"nothing derives {name!r}; expected one of {tuple(_DERIVATIONS)}")
        value = _DERIVATIONS[name](self)
        unknown = (self.flags & Flags.NOT_MEASURED).astype(bool)
        return np.where(unknown, np.nan, value)


def _finite(block: Block) -> derived.Floats:
    return derived.finite_count(*(block.column(c) for c in ("count", "nan", "posinf", "neginf")))


_DERIVATIONS: dict[str, Callable[[Block], derived.Floats]] = {
    "finite": _finite,
    "nonfinite": lambda b: b.column("nan") + b.column("posinf") + b.column("neginf"),
    "mean": lambda b: derived.mean(b.column("sum"), _finite(b)),
    "std": lambda b: derived.std(b.column("sum"), b.column("sumsq"), _finite(b)),
    "rms": lambda b: derived.rms(b.column("sumsq"), _finite(b)),
    "norm": lambda b: derived.norm(b.column("sumsq")),
    "absmax": lambda b: derived.absmax(b.column("min"), b.column("max"), _finite(b)),
}


def stats_of_row(block: Block, row: int) -> Stats:
    """Return one row of a block as Stats. Raises NotMeasuredError when a core column is absent."""
    missing = CORE_COLUMNS.difference(block.values)
    if missing:
        raise NotMeasuredError(f"the columns {sorted(missing)} were not measured in this step")
    fields: dict[str, int | float | None] = {"zero": None, "subnormal": None}
    for column in COLUMNS:
        array = block.values.get(column.name)
        if array is not None:
            fields[column.name] = int(array[row]) if column.is_count else float(array[row])
    return Stats(**fields, flags=Flags(int(block.flags[row])))  # type: ignore[arg-type]  # one value a field, by the schema


def merge_block(block: Block, groups: NDArray[np.intp], group_count: int) -> Block:
    """Merge the rows of a block that share a group into one row each, flagged MERGED.

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
            start, reduce = _GROUP_REDUCE[column.merge]
            merged = np.full(group_count, start, np.uint64 if column.is_count else np.float64)
            reduce.at(merged, groups, block.values[column.name].astype(merged.dtype))
            values[column.name] = merged
    return Block(block.kinds, np.arange(group_count, dtype=np.uint32), kind, flags, values)


_GROUP_REDUCE: dict[Merge, tuple[float, np.ufunc]] = {
    Merge.ADD: (0, np.add),
    Merge.MIN: (np.inf, np.minimum),
    Merge.MAX: (-np.inf, np.maximum),
}
