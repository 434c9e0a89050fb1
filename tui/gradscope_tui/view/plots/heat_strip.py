"""A heat strip: the exponents of a tensor's elements over the steps, the greatest at the top.

A line is one or several binades, a column is a step. The character shows the share of elements, so that
colour is not needed. Extra lines mark the limits of fp16. The limits of bf16 and float32 are outside it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import BINADES, LEAST_EXPONENT
from gradscope_tui.store.gaps import holes
from gradscope_tui.store.histograms import Shares
from gradscope_tui.view.cell import Cell, Role, fit
from gradscope_tui.view.numbers import percent

__all__ = ["LEGEND", "draw_strip", "in_words"]

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

LEGEND = "share of elements  .  ░ 0.1 %  ▒ 1 %  ▓ 5 %  █ 20 %"

_LAST_EXPONENT = LEAST_EXPONENT + BINADES - 1


@dataclass(frozen=True, slots=True)
class _Band:
    """A line: the binades from exponent `least` to `greatest`, or a limit of fp16 above `least`."""

    least: int
    greatest: int
    border: str = ""


def draw_strip(shares: Shares, width: int, height: int) -> list[tuple[Cell, ...]] | None:
    """Return the strip with its axes in `height` lines; None without data or room."""
    columns = width - _AXIS
    shares = _newest(shares, columns)
    is_used = np.asarray(np.nan_to_num(shares.binades).any(axis=0))
    has_zero, has_nonfinite = (bool(np.nan_to_num(x).any()) for x in (shares.zero, shares.nonfinite))
    room = height - 1 - has_zero - has_nonfinite
    if columns < 1 or room < 1 or not (is_used.any() or has_zero or has_nonfinite):
        return None
    lines: list[tuple[Cell, ...]] = []
    if has_nonfinite:
        lines.append((_label("NaN Inf"), *_marks(shares, columns)))
    lines += [
        _border(band, columns) if band.border else _line(shares, band, columns)
        for band in _bands(is_used, room)
    ]
    if has_zero:
        lines.append((_label("0"), *_cells(shares, shares.zero, columns)))
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
    shares_in_words = ", ".join(f"{_part(share)} {word}" for word, share in beyond.items() if share > 0)
    in_fp16 = f"in fp16 {shares_in_words or 'all of them normal'}"
    both = f"90 % in {start} … 2^{high + 1}; {in_fp16}"
    return both if len(both) <= width else in_fp16


def _part(share: float) -> str:
    return percent(share) if share >= 0.0005 else "<0.1 %"


def _newest(shares: Shares, columns: int) -> Shares:
    """Return the newest steps that fit, including the gaps between them."""
    last = max(0, columns - len(holes(shares.steps[-columns:]))) if columns > 0 else 0
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


def _label(text: str) -> Cell:
    return Cell(text.rjust(_AXIS - 1) + "│", "dim")


def _line(shares: Shares, band: _Band, columns: int) -> tuple[Cell, ...]:
    first, last = band.least - LEAST_EXPONENT, band.greatest - LEAST_EXPONENT
    summed = shares.binades[:, first : last + 1].sum(axis=1)
    return (_label(_name(band)), *_cells(shares, summed, columns))


def _name(band: _Band) -> str:
    """Return the label of a line: its least exponent; for the lowest line, its upper bound."""
    if band.least == LEAST_EXPONENT:
        return f"<2^{band.greatest + 1}"
    return f"≥2^{band.least}" if band.greatest == _LAST_EXPONENT else f"2^{band.least}"


def _border(band: _Band, columns: int) -> tuple[Cell, ...]:
    text = f"┄ {band.border} "[:columns]
    return (Cell(" " * (_AXIS - 1) + "├", "dim"), Cell(text + "┄" * (columns - len(text)), "dim"))


def _cells(shares: Shares, values: NDArray[np.float32], columns: int) -> Iterator[Cell]:
    """Yield one line of the strip; neighbours with the same role are one cell."""
    chars: list[tuple[str, Role]] = []
    gaps = set(holes(shares.steps).tolist())
    for i, share in enumerate(values.tolist()):
        chars.append(_char_of(share))
        if i in gaps:
            chars.append((" ", "normal"))
    text, role = "", chars[0][1] if chars else "normal"
    for char, its_role in chars:
        if its_role != role and text:
            yield Cell(text, role)
            text = ""
        text, role = text + char, its_role
    yield Cell(text + " " * max(0, columns - len(chars)), role)


def _char_of(share: float) -> tuple[str, Role]:
    if math.isnan(share):  # not measured in that step
        return "·", "dim"
    if share <= 0:
        return " ", "normal"
    return next((char, role) for least, char, role in _LEVELS if share >= least)


def _marks(shares: Shares, columns: int) -> Iterator[Cell]:
    """Yield the line of nonfinite elements: a mark at each step that has any."""
    gaps = set(holes(shares.steps).tolist())
    used = 0
    for i, share in enumerate(shares.nonfinite.tolist()):
        is_bad = share > 0
        text = ("!" if is_bad else " ") + (" " if i in gaps else "")
        used += len(text)
        yield Cell(text, "bad" if is_bad else "normal")
    yield Cell(" " * max(0, columns - used))


def _step_line(steps: NDArray[np.int64], width: int) -> tuple[Cell, ...]:
    first, last = f"{steps[0]:,}", f"step {steps[-1]:,}"
    used = len(steps) + len(holes(steps))
    room = max(2, used - len(first) - len(last))
    return (Cell(fit(" " * _AXIS + first + " " * room + last, width), "dim"),)
