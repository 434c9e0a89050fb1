"""`plot_steps`: a statistic of chosen layers over the observed steps, with matplotlib."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from gradscope.columns import BASIC_KINDS
from gradscope.errors import NotMeasuredError, UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from gradscope.columns import Table

__all__ = ["plot_steps"]

_STATISTICS: Final = ("norm", "mean", "std", "rms", "min", "max")
_LEGEND_LIMIT: Final = 20
"""Layers that are named; a longer legend is higher than the plot."""


def plot_steps(
    tables: "Sequence[Table]", layers: Sequence[str], kind: str, statistic: str, ax: "Axes | None"
) -> "Axes":
    """Draw a line for each layer, and return the axes. A step in which a layer was not measured is a gap."""
    if kind not in BASIC_KINDS:
        raise UsageError(f"unknown kind {kind!r}; expected one of {', '.join(BASIC_KINDS)}")
    if statistic not in _STATISTICS:
        raise UsageError(f"unknown statistic {statistic!r}; expected one of {', '.join(_STATISTICS)}")
    series = {
        layer: [
            getattr(table[layer][kind], statistic) if _has(table, layer, kind) else math.nan
            for table in tables
        ]
        for layer in layers
        if any(_has(table, layer, kind) for table in tables)
    }
    if not series:
        raise NotMeasuredError(f"{kind} of these layers was not measured in an observed step so far")
    try:
        from matplotlib import pyplot as plt  # noqa: PLC0415 - optional
    except ImportError as error:
        raise UsageError(
            "plot needs matplotlib, which is not installed: pip install matplotlib"
        ) from error
    if ax is None:
        _, ax = plt.subplots(layout="constrained")
    for layer, values in series.items():
        ax.plot([table.step for table in tables], values, label=layer or "(model)")
    if all(value > 0 or math.isnan(value) for values in series.values() for value in values):
        ax.set_yscale("log")
    ax.set_xlabel("step")
    ax.set_ylabel(f"{statistic} of {kind}")
    if len(series) <= _LEGEND_LIMIT:
        ax.legend(fontsize="small")
    return ax


def _has(table: "Table", layer: str, kind: str) -> bool:
    return layer in table and kind in table[layer]
