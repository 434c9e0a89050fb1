"""`StreamLog`: the newest step and scalars of a run, and the lines that are printed for them."""

import math
from collections.abc import Sequence

import numpy as np

from gradscope.cli.output import table_lines
from gradscope.columns import LayerRows, Stats, Table, update_ratio
from gradscope.protocol import Manifest, Message, Scalars, Step, unpack_layers
from gradscope.protocol.bodies import unpack_block

__all__ = ["StreamLog"]

_HEADINGS = ("act std", "grad norm", "dw/w", "")
_OBSERVED = "{cost:.1%} of the step time as gradscope measures it, every {every} steps"


class StreamLog:
    """The newest step and scalars of a run. `lines` shows the given layers."""

    def __init__(self, layers: Sequence[str]) -> None:
        self.step = -1
        self._shown = layers
        self._names: tuple[str, ...] = ()
        self._table: Table | None = None
        self._is_new = False
        self._loss: float | None = None
        self._time_s = math.nan
        self._reported: tuple[int, float] = (-1, math.nan)
        self._cost: float | None = None
        self._every = 1

    def note(self, message: Message) -> None:
        """Store a message of the run."""
        match message:
            case Manifest():
                self._names = tuple(layer.name for layer in unpack_layers(message))
            case Step(layers="all") if self._names:
                self._table = Table(message.step, self._names, unpack_block(message))
                self._is_new = True
                self._cost = self._cost if message.cost is None else message.cost
                self._every = message.every
            case Scalars() if message.steps:
                self.step, self._time_s = message.steps[-1], message.times_s[-1]
                self._loss = message.values.get("loss", (None,))[-1]
            case _:
                pass

    def lines(self) -> list[str]:
        """Return a line about the newest step, and the table of the newest observed step if it is new."""
        loss = "-" if self._loss is None else f"{self._loss:.4f}"
        step, time_s = self._reported
        rate = (self.step - step) / (self._time_s - time_s) if self._time_s > time_s else math.nan
        self._reported = self.step, self._time_s
        head = f"step {self.step}  loss {loss}" + ("" if math.isnan(rate) else f"  {rate:.1f} steps/s")
        table = self._table
        if table is None or not self._is_new:
            return [head]
        self._is_new = False
        rows = [_table_row(name, table[name]) for name in self._shown if name in table]
        return [head, *table_lines((f"observed in step {table.step}", *_HEADINGS), rows)]

    def cost_line(self) -> str:
        """Return a line with the cost of observing, as measured by the run."""
        if self._cost is None:
            return "its cost was not measured"
        return _OBSERVED.format(cost=self._cost, every=self._every)


def _table_row(name: str, rows: LayerRows) -> tuple[str, ...]:
    out, grad, param, update = (rows.get(kind) for kind in ("out", "grad", "param", "update"))
    ratio = math.nan
    if param is not None and update is not None:
        ratio = float(update_ratio(np.array([update.norm]), np.array([param.norm]))[0])
    mark = "reversed" if "grad_arriving" in rows else ""
    return name, _statistic_text(out, "std"), _statistic_text(grad, "norm"), _number_text(ratio), mark


def _statistic_text(stats: Stats | None, name: str) -> str:
    if stats is None or not stats.is_measured:
        return "-"
    return f"non-finite {stats.nonfinite}" if stats.nonfinite else _number_text(getattr(stats, name))


def _number_text(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3g}"
