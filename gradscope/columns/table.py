"""`Table`: one observed step as a mapping, layer → kind → Stats."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from gradscope.columns.block import Block, stats_of_row
from gradscope.columns.stats import PlainStats, Stats, not_measured
from gradscope.errors import UnknownLayerError, UsageError

if TYPE_CHECKING:
    import pandas

__all__ = ["LayerRows", "Table"]


class LayerRows(Mapping[str, Stats]):
    """The rows of one layer by kind ("out", "grad" …). A kind that was not measured raises NotMeasuredError."""

    def __init__(self, layer: str, rows: Mapping[str, Stats]) -> None:
        self._layer = layer
        self._rows = rows

    def __getitem__(self, kind: str) -> Stats:
        try:
            return self._rows[kind]
        except KeyError:
            raise not_measured(self._layer, kind, self._rows) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<rows of {self._layer!r}: {', '.join(self._rows)}>"


class Table(Mapping[str, LayerRows]):
    """One observed step. `table["blocks.0.fc1"]["grad"]` is a Stats.

    `step` is the index of the step, counted from 0. The observed step before it was `every` steps earlier,
    which cost the fraction `cost` of the time (None if not known). `ranks` are the ranks whose rows are
    merged in it; `missing` are the ranks without rows. Raises UsageError if the block has a layer index
    beyond `layers`, e.g. with the manifest of another revision.
    """

    def __init__(
        self,
        step: int,
        layers: Sequence[str],
        block: Block,
        *,
        every: int = 1,
        cost: float | None = None,
        ranks: tuple[int, ...] = (0,),
        missing: tuple[int, ...] = (),
    ) -> None:
        self.step = step
        self.every = every
        self.cost = cost
        self.ranks = ranks
        self.missing = missing
        if len(block) and int(block.layer.max()) >= len(layers):
            raise UsageError(
                f"step {step} has a row of layer index {int(block.layer.max())}, but `layers` has {len(layers)} "
                "entries; pass the layers of the manifest whose revision is the step's manifest_revision"
            )
        rows: dict[str, dict[str, Stats]] = {}
        for i in range(len(block)):
            layer = layers[int(block.layer[i])]
            rows.setdefault(layer, {})[block.kinds[int(block.kind[i])]] = stats_of_row(block, i)
        self._layers = {layer: LayerRows(layer, kinds) for layer, kinds in rows.items()}

    def __getitem__(self, layer: str) -> LayerRows:
        try:
            return self._layers[layer]
        except KeyError:
            near = difflib.get_close_matches(layer, self._layers, n=3, cutoff=0.4)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise UnknownLayerError(f"no layer {layer!r} was measured in this step{hint}") from None

    def __contains__(self, layer: object) -> bool:
        return layer in self._layers

    def get(self, layer: str, default: LayerRows | None = None) -> LayerRows | None:  # type: ignore[override]  # narrower than Mapping's generic default
        """Return the rows of a layer, or the default if none were measured."""
        return self._layers.get(layer, default)

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def __repr__(self) -> str:
        of = f" of ranks {', '.join(map(str, self.ranks))}" if len(self.ranks) > 1 else ""
        without = f", without rank {', '.join(map(str, self.missing))}" if self.missing else ""
        return f"<step {self.step}: {len(self)} layers{of}{without}>"

    def to_dict(self) -> dict[str, dict[str, PlainStats]]:
        """Return plain nested dictionaries; None if not measured."""
        return {
            layer: {kind: stats.to_dict() for kind, stats in rows.items()}
            for layer, rows in self._layers.items()
        }

    def to_pandas(self) -> "pandas.DataFrame":
        """Return a data frame with a row for each layer and kind. Needs pandas.

        Its column `histogram` holds lists of 128 bins; it is left out if no histogram was measured.
        """
        try:
            import pandas  # noqa: PLC0415 - optional
        except ImportError as error:
            raise UsageError(
                "to_pandas needs pandas, which is not installed: pip install pandas"
            ) from error
        records = [
            {"step": self.step, "layer": layer, "kind": kind, **stats.to_dict()}
            for layer, rows in self._layers.items()
            for kind, stats in rows.items()
        ]
        frame = pandas.DataFrame.from_records(records)
        is_there = any(record["histogram"] is not None for record in records)
        return frame if is_there else frame.drop(columns="histogram", errors="ignore")
