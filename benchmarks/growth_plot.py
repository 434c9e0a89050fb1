"""Draws what `benchmarks.growth` has measured, in three panels."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from benchmarks.growth import LayerPoint, TensorPoint
    from benchmarks.rank_growth import RankPoint

__all__ = ["draw"]

_COLOURS = {"floor": "#888888", "core": "#1f6fb4", "full": "#c0562b", "copy": "#888888"}
_NAMES = {
    "floor": "empty hooks",
    "core": "observed",
    "full": "pass, full detail",
    "copy": "copying the same bytes",
}


def draw(
    layers: "Sequence[LayerPoint]",
    tensors: "Sequence[TensorPoint]",
    ranks: "Sequence[RankPoint]",
    path: Path,
) -> None:
    """Write the picture; its format is that of the path's ending."""
    figure = Figure(figsize=(12.5, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    of_layers, of_tensors, of_ranks = figure.subplots(1, 3, width_ratios=(5, 5, 2.5))
    _draw_layers(of_layers, layers)
    _draw_tensors(of_tensors, tensors)
    _draw_ranks(of_ranks, ranks)
    for axes in (of_layers, of_tensors, of_ranks):
        axes.grid(visible=True, alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


def _draw_layers(axes: Axes, points: "Sequence[LayerPoint]") -> None:
    for setting in ("floor", "core"):
        line = [point for point in points if point.setting == setting]
        counts = [point.layers for point in line]
        axes.fill_between(
            counts,
            [point.low for point in line],
            [point.high for point in line],
            color=_COLOURS[setting],
            alpha=0.2,
            linewidth=0,
        )
        axes.plot(counts, [p.ratio for p in line], "o-", color=_COLOURS[setting], label=_NAMES[setting])
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(xscale="log", xlabel="layers, Linear 32 to 32", ylabel="observed step / bare step")
    axes.set_title("number of layers")
    axes.legend(frameon=False)


def _draw_tensors(axes: Axes, points: "Sequence[TensorPoint]") -> None:
    for what in ("copy", "core", "full"):
        line = [point for point in points if point.what == what]
        label = "pass, core detail" if what == "core" else _NAMES[what]
        axes.plot(
            [point.elements for point in line],
            [point.microseconds for point in line],
            "o-",
            color=_COLOURS[what],
            label=label,
        )
    axes.set(xscale="log", yscale="log", xlabel="elements of a float32 tensor", ylabel="microseconds")
    axes.set_title("size of a tensor")
    axes.legend(frameon=False)


def _draw_ranks(axes: Axes, points: "Sequence[RankPoint]") -> None:
    places = [str(point.ranks) for point in points]
    ratios = [point.ratio for point in points]
    spread = [[p.ratio - p.low for p in points], [p.high - p.ratio for p in points]]
    axes.bar(places, ratios, color=_COLOURS["core"], width=0.5, yerr=spread, capsize=4)
    axes.axhline(1, color="black", linewidth=0.8)
    axes.set(xlabel="ranks, gloo, all cores in use", ylabel="observed step / bare step")
    axes.set_title("number of ranks")
