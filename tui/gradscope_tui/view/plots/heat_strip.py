"""A heat strip: the exponents of a tensor's elements over the steps, the greatest at the top.

A line is one or several binades, a column is a step. The character shows the share of elements, so that
colour is not needed. Extra lines mark the limits of fp16. The limits of bf16 and float32 are outside it.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import BINADES, LEAST_EXPONENT
from gradscope_tui.store.gaps import gap_places
from gradscope_tui.store.histograms import Shares
from gradscope_tui.view.cell import Cell, Line, Role, cells_of, fit
from gradscope_tui.view.numbers import percent

__all__ = ["draw_strip", "exponent_lines", "in_words"]

_AXIS = 9
_BORDERS = {16: "largest", -14: "least normal", -24: "least subnormal"}
"""Exponents of fp16: from the first on a number is infinite, below the last it becomes zero."""

_LEVELS: tuple[tuple[float, str, Role], ...] = (
    (0.2, "█", "container"),
    (0.05, "▓", "title"),
    (0.01, "▒", "spark"),
    (0.001, "░", "dim"),
    (0.0, ".", "dim"),
)
"""The least share of elements for a character, and its role."""

_LEGEND = "share of elements  .  ░ 0.1 %  ▒ 1 %  ▓ 5 %  █ 20 %"

_LAST_EXPONENT = LEAST_EXPONENT + BINADES - 1

_NOT_MEASURED = (
    "Not measured. Exponents are counted at full detail only:",
    "",
    '    gradscope.attach(model, detail="full")',
)


@dataclass(frozen=True, slots=True)
class _Band:
    """One line of the strip: the elements whose binary exponent is from `least` to `greatest`.

    A limit of fp16 has a line of its own, above the line that begins with exponent `least`.
    """

    least: int
    greatest: int
    border: str = ""


def exponent_lines(title: str, shares: Shares | None, width: int, height: int) -> list[Line]:
    """Return a title, a summary of the newest step, and the strip; None: the run has no histograms."""
    head = Cell(f"exponents: {title}", "title")
    if shares is None:
        return [(head,), *((Cell("  " + fit(line, width - 2), "dim"),) for line in _NOT_MEASURED)]
    has_room = width >= len(head.text) + len(_LEGEND) + 3
    words = Cell("  " + fit(in_words(shares, width - 2), width - 2), "dim")
    strip = draw_strip(shares, width - 1, height - 2) or ()
    return [(head, Cell("   " + _LEGEND, "dim")) if has_room else (head,), (words,), *strip]


def draw_strip(shares: Shares, width: int, height: int) -> list[Line] | None:
    """Return the strip with its axes in `height` lines; None without data or room."""
    columns = width - _AXIS
    shares = _newest_that_fit(shares, columns)
    is_used = np.asarray(np.nan_to_num(shares.binades).any(axis=0))
    has_zero, has_nonfinite = (bool(np.nan_to_num(x).any()) for x in (shares.zero, shares.nonfinite))
    room = height - 1 - has_zero - has_nonfinite
    if columns < 1 or room < 1 or not (is_used.any() or has_zero or has_nonfinite):
        return None
    lines: list[Line] = []
    if has_nonfinite:
        lines.append(
            (
                _axis_cell("NaN Inf"),
                *_cells_over_steps(shares, map(_mark_of_nonfinite, shares.nonfinite), columns),
            )
        )
    lines += [
        _border_line(band, columns) if band.border else _band_line(shares, band, columns)
        for band in _bands(is_used, room)
    ]
    if has_zero:
        lines.append((_axis_cell("0"), *_cells_over_steps(shares, map(_mark_of, shares.zero), columns)))
    return [*lines, _step_line(shares.steps, width)]


def in_words(shares: Shares, width: int) -> str:
    """Return the range of the newest step's elements, and the share that fp16 cannot represent.

    Returns only the share if both do not fit in `width`.
    """
    if not len(shares.steps) or np.isnan(shares.zero[-1]):
        return "not measured in the newest step"
    newest = shares.binades[-1].astype(np.float64)
    there = float(newest.sum())
    if there <= 0:
        return "all zero or not finite"
    running = np.cumsum(newest) / there
    low, high = (int(np.searchsorted(running, part)) + LEAST_EXPONENT for part in (0.05, 0.95))
    start = "0" if low == LEAST_EXPONENT else f"2^{low}"
    exponent = np.arange(BINADES) + LEAST_EXPONENT
    beyond = {
        "too large": float(newest[exponent >= 16].sum()),
        "subnormal": float(newest[(exponent >= -24) & (exponent < -14)].sum()),
        "lost": float(newest[exponent < -24].sum()),
    }
    shares_in_words = ", ".join(
        f"{_share_in_words(share)} {word}" for word, share in beyond.items() if share > 0
    )
    in_fp16 = f"in fp16 {shares_in_words or 'all of them normal'}"
    both = f"90 % in {start} … 2^{high + 1}; {in_fp16}"
    return both if len(both) <= width else in_fp16


def _share_in_words(share: float) -> str:
    return percent(share) if share >= 0.0005 else "<0.1 %"


def _newest_that_fit(shares: Shares, columns: int) -> Shares:
    """Return the newest steps that fit, including the gaps between them."""
    last = max(0, columns - len(gap_places(shares.steps[-columns:]))) if columns > 0 else 0
    start = max(0, len(shares.steps) - last)
    return Shares(
        shares.steps[start:], shares.binades[start:], shares.zero[start:], shares.nonfinite[start:]
    )


def _bands(is_used: NDArray[np.bool_], room: int) -> list[_Band]:
    """Return the lines from top to bottom: binades in groups as small as the height allows."""
    if not is_used.any():
        return []
    used = np.flatnonzero(is_used) + LEAST_EXPONENT
    least, greatest = int(used[0]), int(used[-1])
    borders = [e for e in _BORDERS if least < e <= greatest]
    if room - len(borders) < 2 * (len(borders) + 1):
        borders = []  # no room for extra lines; the axis still shows the exponents
    edges = [greatest + 1, *borders, least]
    parts = list(pairwise(edges))
    group = next(
        size
        for size in range(1, BINADES + 1)
        if sum(-(-(top - low) // size) for top, low in parts) <= max(room - len(borders), 1)
    )
    bands: list[_Band] = []
    for top, low in parts:
        bands += [_Band(max(low, e - group), e - 1) for e in range(top, low, -group)]
        if low in borders:
            bands.append(_Band(low, low, f"fp16 {_BORDERS[low]} 2^{low}"))
    return bands


def _axis_cell(text: str) -> Cell:
    return Cell(text.rjust(_AXIS - 1) + "│", "dim")


def _band_line(shares: Shares, band: _Band, columns: int) -> Line:
    first, last = band.least - LEAST_EXPONENT, band.greatest - LEAST_EXPONENT
    summed = shares.binades[:, first : last + 1].sum(axis=1)
    return (_axis_cell(_band_label(band)), *_cells_over_steps(shares, map(_mark_of, summed), columns))


def _band_label(band: _Band) -> str:
    """Return the label of a line: its least exponent; for the lowest line, its upper bound."""
    if band.least == LEAST_EXPONENT:
        return f"<2^{band.greatest + 1}"
    return f"≥2^{band.least}" if band.greatest == _LAST_EXPONENT else f"2^{band.least}"


def _border_line(band: _Band, columns: int) -> Line:
    text = f"┄ {band.border} "[:columns]
    return (Cell(" " * (_AXIS - 1) + "├", "dim"), Cell(text + "┄" * (columns - len(text)), "dim"))


def _cells_over_steps(
    shares: Shares, marks: Iterable[tuple[str, Role]], columns: int
) -> Iterator[Cell]:
    """Yield the cells of one line: the mark of each step, and a blank at each gap."""
    gaps = set(gap_places(shares.steps).tolist())
    blank: tuple[str, Role] = " ", "normal"
    line = [each for i, mark in enumerate(marks) for each in (mark, *((blank,) if i in gaps else ()))]
    return cells_of([*line, *[blank] * (columns - len(line))])


def _mark_of(share: float) -> tuple[str, Role]:
    if math.isnan(share):  # not measured in that step
        return "·", "dim"
    if share <= 0:
        return " ", "normal"
    return next((char, role) for least, char, role in _LEVELS if share >= least)


def _mark_of_nonfinite(share: float) -> tuple[str, Role]:
    return ("!", "bad") if share > 0 else (" ", "normal")


def _step_line(steps: NDArray[np.int64], width: int) -> Line:
    first, last = f"{steps[0]:,}", f"step {steps[-1]:,}"
    used = len(steps) + len(gap_places(steps))
    room = max(2, used - len(first) - len(last))
    return (Cell(fit(" " * _AXIS + first + " " * room + last, width), "dim"),)
