"""`Reading`: one step as rules see it: its rows laid out by layer, and its scalars.

Nothing here copies what nobody asks for: a quantity is derived when first wanted, once for all rules.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import Block, Flags
from gradscope.errors import UsageError

__all__ = ["QUANTITIES", "Floats", "Reading"]

Floats: TypeAlias = NDArray[np.float64]

_DERIVED = ("mean", "std", "rms", "norm", "absmax", "nonfinite", "finite")
_COLUMNS = ("min", "max", "nan", "posinf", "neginf", "zero", "count")
QUANTITIES: tuple[str, ...] = (*_DERIVED, "inf", *_COLUMNS)
"""What can be asked of a row."""

_BY_TENSOR = frozenset({"out", "grad"})


class Reading:
    """One step. `block` is None where it was not observed; then only its scalars are known.

    `layers` are the names that the block's rows speak of, `types` the class of each module, as far as
    it is known. Steps of one model share the very same `layers`.
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
        self.types = types
        self.scalars: Mapping[str, float] = scalars or {}
        self._rows: dict[str, NDArray[np.intp]] = {}
        self._exact: dict[str, tuple[NDArray[np.intp], NDArray[np.uint32]]] = {}
        self._columns: dict[str, Floats] = {}
        self._by_layer: dict[tuple[str, str], Floats] = {}

    def rows(self, kind: str) -> NDArray[np.intp]:
        """Return the rows of a kind, in their order.

        An output of several tensors has a row for each (`out.0`, `out.1`): all of them. A layer's
        parameters have one together: that one.
        """
        if kind not in self._rows:
            self._rows[kind] = self._find_rows(kind)
        return self._rows[kind]

    def column(self, quantity: str) -> Floats:
        """Return a quantity of every row; NaN where it was not measured."""
        if quantity not in self._columns:
            self._columns[quantity] = self._column(quantity)
        return self._columns[quantity]

    def by_layer(self, kind: str, quantity: str) -> Floats:
        """Return a quantity of the rows of exactly this kind, one number a layer; NaN without a row."""
        key = kind, quantity
        if key not in self._by_layer:
            values = np.full(len(self.layers), np.nan)
            rows, layers = self._exact_rows(kind)
            if len(rows):
                values[layers] = self.column(quantity)[rows]
            self._by_layer[key] = values
        return self._by_layer[key]

    def types_are(self, types: frozenset[str]) -> NDArray[np.bool_]:
        """Return for each layer whether its class is one of these; False where it is not known."""
        known = [name in types for name in self.types]
        return np.array(known or [False] * len(self.layers), np.bool_)

    def _exact_rows(self, kind: str) -> tuple[NDArray[np.intp], NDArray[np.uint32]]:
        """Return the rows of exactly this kind, and the layer of each."""
        if kind not in self._exact:
            block = self.block
            if block is None or kind not in block.kinds:
                self._exact[kind] = np.empty(0, np.intp), np.empty(0, np.uint32)
            else:
                rows = np.flatnonzero(block.kind == block.kinds.index(kind))
                self._exact[kind] = rows, block.layer[rows]
        return self._exact[kind]

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
        if quantity in _COLUMNS:
            is_unknown = (block.flags & Flags.NOT_MEASURED).astype(bool)
            return np.where(is_unknown, np.nan, block.column(quantity))
        raise UsageError(f"no quantity {quantity!r}; there are: {', '.join(QUANTITIES)}")
