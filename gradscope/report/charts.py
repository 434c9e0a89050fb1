"""The charts of a report as SVG, drawn by matplotlib. Colours are the page's, so that they follow dark and light."""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import NDArray

from gradscope.report.series import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Line", "Mark", "draw_heat_map", "draw_layer", "draw_lines"]

_WIDTH_IN: Final = 9.2
_INK, _FAINT, _BAND, _ALARM = "#010203", "#010204", "#010205", "#010206"
_LINES: Final = ("#010207", "#010208", "#010209")
_VARIABLES: Final = {
    _INK: "--ink",
    _FAINT: "--faint",
    _BAND: "--band",
    _ALARM: "--alarm",
    _LINES[0]: "--line1",
    _LINES[1]: "--line2",
    _LINES[2]: "--line3",
}
"""Colours that stand for variables of the page's style. A chart is drawn with them, and they are replaced then."""

_DASHES: Final = ("-", "--", ":")
_ROWS_NAMED: Final = 48
"""More layers than these are not all named at a heat map."""

_NAME_LENGTH: Final = 44
_SIGNS_LIMIT: Final = 3_000
_POINTS_LIMIT: Final = 120
_SIGN: Final = "#e0452f"
"""Of the signs inside a heat map, which are drawn as pixels, so that they cannot follow the page's colours."""

_COLOR_RANGE: Final = (1.0, 99.0)
"""The percentiles between which colours differ: one exploding step must not make all other steps look alike."""

_COLORS: Final = 64
"""Few enough that a picture of noise stays small."""

_ENDS: Final = {
    (False, False): "neither",
    (True, False): "min",
    (False, True): "max",
    (True, True): "both",
}
_SHORT: Final = FuncFormatter(lambda value, _: f"{value:g}")
_SETTINGS: Final[dict[Any, Any]] = {  # Any: matplotlib's type is a Literal of all its settings
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
}


@dataclass(frozen=True, slots=True)
class Line:
    """One curve of a chart, with its name."""

    name: str
    curve: Curve


@dataclass(frozen=True, slots=True)
class Mark:
    """A step that all charts mark: findings, with their numbers as the sign above it, or an intervention."""

    step: int
    sign: str

    @property
    def is_finding(self) -> bool:
        """Whether the sign is the numbers of findings."""
        return self.sign[:1].isdigit()


def draw_lines(
    title: str,
    lines: Sequence[Line],
    marks: Sequence[Mark],
    span: tuple[int, int],
    *,
    height_in: float = 2.1,
) -> str:
    """Return a chart of curves over steps as SVG. Where several steps share a point, the band is their range."""
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH_IN, height_in))
        figure.subplots_adjust(0.075, 0.44 / height_in, 0.985, 1 - 0.3 / height_in)
        axes = figure.add_subplot()
        _draw_curves(axes, lines)
        _add_marks(axes, marks, span)
        axes.set_title(_plain(title), loc="left", fontsize=9.5)
        axes.set_xlabel("step")
        return _svg(figure, title)


def draw_layer(
    name: str, parts: Mapping[str, Line], marks: Sequence[Mark], span: tuple[int, int]
) -> str:
    """Return the small charts of one layer in a row, by title, as SVG."""
    with rc_context(_SETTINGS):
        figure = Figure(figsize=(_WIDTH_IN, 1.55))
        figure.subplots_adjust(0.055, 0.16, 0.985, 0.84, wspace=0.3)
        for axes, (title, line) in zip(
            figure.subplots(1, max(1, len(parts)), squeeze=False)[0], parts.items(), strict=False
        ):
            _draw_curves(axes, [line], has_legend=False)
            _add_marks(axes, marks, span, is_small=True)
            axes.set_title(_plain(title), loc="left", fontsize=8.5)
            axes.tick_params(labelsize=7.5)
        return _svg(figure, f"the layer {name}")


def draw_heat_map(
    title: str,
    names: Sequence[str],
    first: Sequence[int],
    last: Sequence[int],
    values: NDArray[np.float64],
    nonfinite: NDArray[np.float64],
    marks: Sequence[Mark],
) -> str:
    """Return a heat map as SVG: steps from left to right, layers from top to bottom, a logarithmic colour scale.

    values, nonfinite: shape (columns, layers). A column reaches to the middle between its steps and those of the next
    one. NaN is not drawn: it was not measured. A zero has a sign of its own, and so has a layer with NaN or infinity.
    """
    with rc_context(_SETTINGS):
        rows = len(names)
        height_in = min(6.5, max(1.5, 0.75 + rows * (0.16 if rows <= _ROWS_NAMED else 0.02)))
        figure = Figure(figsize=(_WIDTH_IN, height_in), layout="constrained")
        axes = figure.add_subplot()
        edges = _edges(first, last)
        positive = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        known = positive[~np.isnan(positive)]
        if known.size:
            low, high = np.percentile(known, _COLOR_RANGE, method="nearest").tolist()
            mesh = axes.pcolormesh(
                edges,
                np.arange(rows + 1) - 0.5,
                np.ma.masked_invalid(positive).T,
                norm=LogNorm(low, high if high > low else low * 1.01),
                cmap=colormaps["viridis"].resampled(_COLORS),
                rasterized=True,
            )
            ends = _ENDS[bool(known.min() < low), bool(known.max() > high)]
            bar = figure.colorbar(
                mesh,
                ax=axes,
                pad=0.01,
                aspect=18,
                fraction=0.04,
                extend=ends,
                ticks=LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)),
            )
            bar.ax.yaxis.set_major_formatter(_SHORT)
            bar.ax.yaxis.set_minor_formatter(NullFormatter())
            bar.ax.tick_params(labelsize=7.5)
        centres = (edges[:-1] + edges[1:]) / 2
        has_signs = [
            _add_signs(axes, centres, (values == 0) & ~(nonfinite > 0), "o", "zero"),
            _add_signs(axes, centres, nonfinite > 0, "x", "NaN or Inf"),
        ]
        axes.set_ylim(rows - 0.5, -0.5)
        _name_rows(axes, names)
        _add_marks(axes, marks, (int(first[0]), int(last[-1])), is_over_image=True)
        axes.set_title(_plain(title), loc="left", fontsize=9.5)
        axes.set_xlabel("step")
        if any(has_signs):
            axes.legend(
                loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=2, frameon=False, fontsize=8
            )
        return _svg(figure, title)


def _draw_curves(axes: "Axes", lines: Sequence[Line], *, has_legend: bool = True) -> None:
    for place, line in enumerate(lines):
        curve, color = line.curve, _LINES[place % len(_LINES)]
        if (curve.high > curve.low).any():
            axes.fill_between(curve.steps, curve.low, curve.high, color=_BAND, linewidth=0)
        marker = "." if len(curve.steps) < 24 else ""
        axes.plot(
            curve.steps,
            curve.middle,
            _DASHES[place % len(_DASHES)],
            color=color,
            linewidth=1.3,
            marker=marker,
            label=_plain(line.name),
        )
        if curve.nonfinite:
            top = np.full(len(curve.nonfinite[:_POINTS_LIMIT]), 0.97)
            axes.scatter(
                curve.nonfinite[:_POINTS_LIMIT],
                top,
                marker="x",
                s=16,
                linewidth=1.2,
                color=_ALARM,
                transform=axes.get_xaxis_transform(),
                label="NaN or Inf",
            )
    shown = [line.curve.middle for line in lines if len(line.curve.middle)]
    if shown:
        low, high = min(float(y.min()) for y in shown), max(float(y.max()) for y in shown)
        if low > 0 and high / low > 20:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(_SHORT)
            axes.yaxis.set_minor_formatter(NullFormatter())
    if has_legend and any(line.curve.nonfinite for line in lines):
        axes.legend(frameon=False, fontsize=8, loc="best")
    axes.grid(visible=True, color=_FAINT, linewidth=0.3, alpha=0.5)


def _add_marks(
    axes: "Axes",
    marks: Sequence[Mark],
    span: tuple[int, int],
    *,
    is_small: bool = False,
    is_over_image: bool = False,
) -> None:
    axes.set_xlim(span[0], max(span[1], span[0] + 1))
    for mark in marks:
        if not span[0] <= mark.step <= span[1]:
            continue
        color = _ALARM if mark.is_finding else _LINES[1]
        axes.axvline(mark.step, color=color, linewidth=0.7, linestyle=(0, (4, 2)))
        if not is_small:
            axes.annotate(
                mark.sign,
                (mark.step, 1.0 if not is_over_image else 0.0),
                xycoords=axes.get_xaxis_transform(),
                xytext=(0, 1 if not is_over_image else 0),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8,
                color=color,
                annotation_clip=False,
            )


def _add_signs(
    axes: "Axes",
    centres: NDArray[np.float64],
    where: NDArray[np.bool_],
    marker: str,
    label: str,
) -> bool:
    """Draw a sign in the chosen cells, of a dense region in some of them. Return whether there is one."""
    columns, rows = np.nonzero(where)
    if not len(columns):
        return False
    stride = max(1, len(columns) // _SIGNS_LIMIT)
    axes.scatter(
        centres[columns[::stride]],
        rows[::stride],
        marker=marker,
        s=9,
        linewidth=0.9,
        color=_SIGN if marker == "x" else "none",
        edgecolors=None if marker == "x" else _SIGN,
        label=label,
        rasterized=True,
    )
    return True


def _edges(first: Sequence[int], last: Sequence[int]) -> NDArray[np.float64]:
    """Return the borders of the columns: the middle between the last steps of one and the first of the next."""
    inner = (np.array(last[:-1], np.float64) + np.array(first[1:], np.float64)) / 2
    return np.concatenate([[first[0] - 0.5], inner, [last[-1] + 0.5]])


def _name_rows(axes: "Axes", names: Sequence[str]) -> None:
    every = -(-len(names) // _ROWS_NAMED)
    axes.set_yticks(np.arange(0, len(names), every))
    axes.set_yticklabels([_plain(name) or "(model)" for name in names[::every]], fontsize=7)
    axes.tick_params(axis="y", length=0)


def _plain(text: str) -> str:
    """Return text without control characters, which XML cannot hold, cut in the middle."""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    half = _NAME_LENGTH // 2
    return shown if len(shown) <= 2 * _NAME_LENGTH else f"{shown[:half]}…{shown[-half:]}"


def _svg(figure: Figure, title: str) -> str:
    """Return the figure as an <svg> element with a title. It uses the colours of the page."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r' id="(?:[A-Z]\w*|[a-z]+(?:2d)?)_\d+"', "", text)
    text = re.sub(r' d="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), text)
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var({variable})")
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 role="img"', text, count=1)
    return re.sub(r">\s+<", "><", text)
