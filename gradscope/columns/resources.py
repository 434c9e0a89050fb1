"""`MemoryTable` and `TimesTable`: one row for each layer, with the sum over the layers below in `.total`.

A number that was not measured is None, never zero, and so is a sum that includes it.
"""

import difflib
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gradscope.errors import UnknownLayerError, UsageError

if TYPE_CHECKING:
    import pandas

__all__ = ["MemoryRow", "MemoryTable", "TimeRow", "TimesTable", "add_rows", "balance_of"]


@dataclass(frozen=True, slots=True)
class MemoryRow:
    """The bytes of one layer itself. `total` adds all layers below it.

    saved_bytes: activations kept for the backward pass by operations of this layer, after the forward.
    grad_bytes: after the backward pass. optimizer_bytes: after the optimizer has stepped.
    entry_bytes, exit_bytes, peak_bytes: memory held by the allocator (on a CPU: by the process) when the
    layer was first entered and last left, and the maximum over its entries and exits; they have no total.
    """

    saved_bytes: int | None = None
    param_bytes: int | None = None
    grad_bytes: int | None = None
    optimizer_bytes: int | None = None
    buffer_bytes: int | None = None
    entry_bytes: int | None = field(default=None, metadata={"is_summed": False})
    exit_bytes: int | None = field(default=None, metadata={"is_summed": False})
    peak_bytes: int | None = field(default=None, metadata={"is_summed": False})
    below: "MemoryRow | None" = field(default=None, repr=False)

    @property
    def total(self) -> "MemoryRow":
        """The sum of the layer and all layers below it."""
        return self.below or self


@dataclass(frozen=True, slots=True)
class TimeRow:
    """The seconds of one layer itself in one step, over all its calls. `total` is as in MemoryRow.

    The recomputation of a checkpoint counts as backward.
    """

    forward_s: float | None = None
    backward_s: float | None = None
    calls: int | None = None
    below: "TimeRow | None" = field(default=None, repr=False)

    @property
    def total(self) -> "TimeRow":
        """The sum of the layer and all layers below it."""
        return self.below or self


Row = TypeVar("Row", MemoryRow, TimeRow)


def add_rows(rows: Sequence[Row]) -> Row:
    """Return the sum of the rows of a layer (first) and of the layers below it. A sum with None is None."""
    first = rows[0]
    summed: dict[str, Any] = {}
    for each in fields(first):
        if each.name == "below" or not each.metadata.get("is_summed", True):
            continue
        values = [getattr(row, each.name) for row in rows]
        summed[each.name] = None if None in values else sum(values)
    if isinstance(first, TimeRow):
        summed["calls"] = first.calls
    return type(first)(**summed)


class _Table(Mapping[str, Row], Generic[Row]):
    """The common part of both tables: a mapping from layer to row, for one step.

    `own` are the rows by index in `layers`, without totals; a layer that is not in it has the row `empty`.
    """

    def __init__(
        self, step: int, layers: Sequence[str], own: Mapping[int, Row], empty: Row, notes: Sequence[str]
    ) -> None:
        if own and max(own) >= len(layers):
            raise UsageError(
                f"step {step} has a row of layer {max(own)}, expected fewer than the "
                f"{len(layers)} layers given; take the manifest of its manifest_revision"
            )
        self.step = step
        self.notes = tuple(notes)
        self.layers = layers
        self.own: Mapping[int, Row] = own
        self._empty: Row = empty

    @functools.cached_property
    def _rows(self) -> dict[str, Row]:
        rows = [self.own.get(i, self._empty) for i in range(len(self.layers))]
        families: dict[str, list[Row]] = {
            name: [row] for name, row in zip(self.layers, rows, strict=True)
        }
        for name, row in zip(self.layers, rows, strict=True):
            for above in _names_above(name):
                if above in families:
                    families[above].append(row)
        return {name: _with_total(rows[i], families[name]) for i, name in enumerate(self.layers)}

    def __getitem__(self, layer: str) -> Row:
        try:
            return self._rows[layer]
        except KeyError:
            near = difflib.get_close_matches(layer, self._rows, n=3, cutoff=0.4)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise UnknownLayerError(f"the model has no layer {layer!r}{hint}") from None

    def __contains__(self, layer: object) -> bool:
        return layer in self._rows

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of step {self.step}: {len(self)} layers>"

    def to_dict(self) -> dict[str, dict[str, float | int | None]]:
        """Return plain nested dictionaries with own and `total_…` numbers; None if not measured."""
        return {layer: _plain(row) for layer, row in self._rows.items()}

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a data frame with a row for each layer. Needs pandas."""
        try:
            import pandas  # noqa: PLC0415 - optional
        except ImportError as error:
            raise UsageError(
                "to_pandas needs pandas, which is not installed: pip install pandas"
            ) from error
        rows = [{"step": self.step, "layer": layer, **row} for layer, row in self.to_dict().items()]
        return pandas.DataFrame.from_records(rows)


class MemoryTable(_Table[MemoryRow]):
    """The memory of one step by layer: `table["blocks.0.fc1"].saved_bytes` are the layer's own bytes.

    `balance` splits the memory at the end of the forward pass into its parts: see `balance_of`.
    `machine` has the counters of the process and the device: resident set, allocated, reserved. `notes`
    are sentences on anything that could not be measured.
    """

    def __init__(
        self,
        step: int,
        layers: Sequence[str],
        own: Mapping[int, MemoryRow],
        *,
        balance: Mapping[str, int],
        machine: Mapping[str, int],
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(step, layers, own, MemoryRow(), notes)
        self.balance = dict(balance)
        self.machine = dict(machine)


class TimesTable(_Table[TimeRow]):
    """The time of one step by layer: `table["blocks.0.fc1"].forward_s` are the layer's own seconds.

    `phases_s` has the parts of the step: `data` (all before the forward), `forward`, `loss` (from the end of
    the forward to the first operation of the model's backward), `backward`, `optimizer`, `other`. `clock` is
    "host" or "device". `is_observed`: the step was also observed, which makes it longer. `notes` are
    sentences on anything that could not be measured.
    """

    def __init__(
        self,
        step: int,
        layers: Sequence[str],
        own: Mapping[int, TimeRow],
        *,
        phases_s: Mapping[str, float],
        clock: str,
        is_observed: bool,
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(step, layers, own, TimeRow(), notes)
        self.phases_s = dict(phases_s)
        self.clock = clock
        self.is_observed = is_observed


def balance_of(parts: Mapping[str, int], total_bytes: int) -> dict[str, int]:
    """Return the parts, the unexplained rest and the total, in the order of the bar.

    If the parts exceed the total (allocated memory that was never touched is not resident), the rest
    is 0.
    """
    order = ("parameters", "gradients", "optimizer", "buffers", "saved", "batch")
    known = {name: parts.get(name, 0) for name in order}
    return known | {"unexplained": max(0, total_bytes - sum(known.values())), "total": total_bytes}


def _names_above(name: str) -> Iterator[str]:
    while name:
        name = name.rpartition(".")[0]
        yield name


def _with_total(row: Row, family: Sequence[Row]) -> Row:
    values = {f.name: getattr(row, f.name) for f in fields(row)} | {"below": add_rows(family)}
    return type(row)(**values)


def _plain(row: MemoryRow | TimeRow) -> dict[str, float | int | None]:
    total = row.total
    summed = {
        f.name for f in fields(row) if f.name != "below" and f.metadata.get("is_summed", True)
    } - {"calls"}
    own = {f.name: getattr(row, f.name) for f in fields(row) if f.name != "below"}
    return own | {f"total_{name}": getattr(total, name) for name in sorted(summed)}
