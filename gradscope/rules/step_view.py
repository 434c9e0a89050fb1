"""`StepView`: the statistics of one step, indexed by layer, and its scalars.

Rules run in the training thread in observed steps, so everything is lazy: a quantity is derived on first
use, once for all rules, and only for the rows of the requested kind.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import COLUMN_NAMES, Block, Flags, derive_from
from gradscope.columns.derived import DERIVATIONS
from gradscope.errors import UsageError

__all__ = ["QUANTITIES", "Floats", "StepView", "any_of", "indices_of"]

Floats: TypeAlias = NDArray[np.float64]

_DERIVED = tuple(DERIVATIONS)
_COLUMNS = tuple(name for name in COLUMN_NAMES if name != "calls")
QUANTITIES: tuple[str, ...] = (*_DERIVED, "inf", *_COLUMNS)
"""The quantities of a row: derived ones and columns."""

_NOT_MEASURED = np.uint8(Flags.NOT_MEASURED)
_BY_TENSOR = frozenset({"out", "grad"})


def any_of(counts: NDArray[np.generic]) -> bool:
    """Return whether any of these non-negative values is not 0. This is three times as fast as `ndarray.any`."""
    return bool(len(counts) and counts[counts.argmax()])


def indices_of(mask: NDArray[np.bool_]) -> list[int]:
    """Return the indices at which a mask is true. The usual case, an all-false mask, is fast."""
    return np.flatnonzero(mask).tolist() if any_of(mask) else []


class _KindRows:
    """The rows of one kind, and the layer of each."""

    def __init__(self, block: Block, kind: str) -> None:
        self._block = block
        self.rows = (block.kind == block.kinds.index(kind)).nonzero()[0]
        self.layers = block.layer[self.rows].astype(np.intp)
        flags = block.flags[self.rows]
        self._unknown = (flags & _NOT_MEASURED) > 0 if any_of(flags) else None
        self._columns: dict[str, Floats] = {}

    def column(self, name: str) -> Floats:
        found = self._columns.get(name)
        if found is None:
            array = self._block.values.get(name)
            few = np.full(len(self.rows), np.nan) if array is None else array[self.rows]
            found = self._columns[name] = few.astype(np.float64, copy=False)
        return found

    def quantity(self, name: str) -> Floats:
        if name == "inf":
            values = self.column("posinf") + self.column("neginf")
        elif name in _DERIVED:
            values = derive_from(name, self.column)
        else:
            values = self.column(_checked(name))
        return values if self._unknown is None else np.where(self._unknown, np.nan, values)


class StepView:
    """One step. `block` is None if the step was not observed; then only its scalars are known.

    `layers` are the layer names that the block's rows index; `types` are the class names of the modules,
    if known. Steps of one model share the same `layers` object.
    """

    def __init__(
        self,
        step: int,
        layers: Sequence[str],
        block: Block | None,
        *,
        types: Sequence[str] = (),
        scalars: Mapping[str, float] | None = None,
    ) -> None:
        self.step = step
        self.layers = layers
        self.block = block
        self.types = types if isinstance(types, tuple) else tuple(types)
        self.scalars: Mapping[str, float] = scalars or {}
        self._rows: dict[str, NDArray[np.intp]] = {}
        self._kind_rows: dict[str, _KindRows | None] = {}
        self._columns: dict[str, Floats] = {}
        self._by_layer: dict[tuple[str, str], Floats] = {}
        self._order: NDArray[np.intp] | None = None

    def rows(self, kind: str) -> NDArray[np.intp]:
        """Return the row indices of a kind, in order.

        An output of several tensors has a row for each (`out.0`, `out.1`); all are returned. The parameters
        of a layer share one row.
        """
        if kind not in self._rows:
            self._rows[kind] = self._find_rows(kind)
        return self._rows[kind]

    def column(self, quantity: str) -> Floats:
        """Return a quantity of every row; NaN if not measured."""
        if quantity not in self._columns:
            self._columns[quantity] = self._column(quantity)
        return self._columns[quantity]

    def by_layer(self, kind: str, quantity: str) -> Floats:
        """Return a quantity of the rows of exactly this kind, one value per layer; NaN without a row."""
        key = kind, quantity
        values = self._by_layer.get(key)
        if values is None:
            values = self._by_layer[key] = np.full(len(self.layers), np.nan)
            kind_rows = self._find_kind(kind)
            if kind_rows is not None:
                values[kind_rows.layers] = kind_rows.quantity(quantity)
        return values

    def execution_order(self) -> NDArray[np.intp]:
        """Return the layers that ran, as indices, in the order in which they first ended."""
        if self._order is None:
            block = self.block
            kinds = () if block is None else block.kinds
            outputs = {i for i, kind in enumerate(kinds) if kind.partition(".")[0] == "out"}
            rows = () if block is None else zip(block.layer.tolist(), block.kind.tolist(), strict=True)
            ran = dict.fromkeys(layer for layer, kind in rows if kind in outputs)
            self._order = np.fromiter(ran, np.intp, len(ran))
        return self._order

    def types_are(self, types: frozenset[str]) -> NDArray[np.bool_]:
        """Return for each layer whether its class name is one of `types`; False if not known."""
        return _is_of_types(self.types or ("",) * len(self.layers), types)

    def _find_kind(self, kind: str) -> _KindRows | None:
        if kind not in self._kind_rows:
            block = self.block
            is_there = block is not None and kind in block.kinds
            self._kind_rows[kind] = _KindRows(block, kind) if block is not None and is_there else None
        return self._kind_rows[kind]

    def _find_rows(self, kind: str) -> NDArray[np.intp]:
        block = self.block
        if block is None:
            return np.empty(0, np.intp)
        roots = [name.partition(".")[0] if kind in _BY_TENSOR else name for name in block.kinds]
        return np.flatnonzero(np.isin(block.kind, [i for i, root in enumerate(roots) if root == kind]))

    def _column(self, quantity: str) -> Floats:
        block = self.block
        if block is None:
            return np.empty(0)
        if quantity == "inf":
            return self.column("posinf") + self.column("neginf")
        if quantity in _DERIVED:
            return block.derive(quantity)
        is_unknown = (block.flags & _NOT_MEASURED) > 0
        return np.where(is_unknown, np.nan, block.column(_checked(quantity)))


def _checked(quantity: str) -> str:
    if quantity not in _COLUMNS:
        raise UsageError(f"unknown quantity {quantity!r}; expected one of: {', '.join(QUANTITIES)}")
    return quantity


@functools.lru_cache(maxsize=64)
def _is_of_types(types: tuple[str, ...], wanted: frozenset[str]) -> NDArray[np.bool_]:
    found = np.array([name in wanted for name in types], np.bool_)
    found.flags.writeable = False
    return found
