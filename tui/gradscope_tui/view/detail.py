"""The lines of one layer: its parameters, and the statistics of each measured kind."""
# ruff: noqa: RUF001 - the signs are meant

import math
from collections.abc import Iterable

import numpy as np

from gradscope.columns import Block, Flags, Stats, stats_of_row
from gradscope.protocol import Layer
from gradscope_tui.view.cell import Cell, Line, Role, fit
from gradscope_tui.view.numbers import aligned, count, ordinal

__all__ = ["about_lines", "focus_in_words", "kind_in_words", "kinds_of", "stats_lines"]

_COLUMNS = ("norm", "std", "mean", "absmax", "min", "max")
_TITLES = ("norm", "σ", "mean", "|max|", "min", "max")
_NAMES = {
    "out": "output",
    "grad": "gradient",
    "grad_arriving": "gradient arriving",
    "grad_create_graph": "gradient penalty",
    "grad_create_graph_arriving": "penalty arriving",
    "param": "parameters",
    "param_grad": "param gradient",
    "param_grad_arriving": "  arriving",
    "param_grad_before_clip": "  before clipping",
    "update": "update Δw",
}
_KIND_WIDTH = 20
_NUMBER_WIDTH = 12
"""A sign, a number, and a blank between two columns."""

_COUNT_WIDTH = 9


def about_lines(layer: Layer, width: int) -> list[Line]:
    """Return a line for each parameter: shape, dtype and size."""
    if not layer.parameters:
        return [(Cell("This layer has no parameters.", "dim"),)]
    lines: list[Line] = []
    for parameter in layer.parameters:
        elements = math.prod(parameter.shape)
        shape = " × ".join(str(n) for n in parameter.shape) or "scalar"
        frozen = "" if parameter.is_trainable else ", frozen"
        text = f"{shape}  {parameter.dtype.removeprefix('torch.')}, {count(elements)} elements{frozen}"
        lines.append((Cell(fit(parameter.name, 12) + " "), Cell(fit(text, max(1, width - 13)), "dim")))
    return lines


def focus_in_words(every: int) -> str:
    """Return the interval of the focus steps as text, such as `focus: every 2nd step`."""
    return f"focus: every {'step' if every == 1 else f'{ordinal(every)} step'}"


def stats_lines(block: Block | None, node: int, width: int) -> list[Line]:
    """Return a header, and a line for each kind measured in the newest step."""
    rows = _rows_of(block, node)
    if block is None or not rows:
        return [(Cell("This layer was not measured in this step.", "dim"),)]
    shown = max(1, min(len(_COLUMNS), (width - _KIND_WIDTH - _COUNT_WIDTH) // _NUMBER_WIDTH))
    titles = "".join(fit(f"   {title}", _NUMBER_WIDTH) for title in _TITLES[:shown])
    header = Cell(fit("", _KIND_WIDTH) + titles + fit("elements", _COUNT_WIDTH), "header")
    lines = [_stats_line(kind, stats_of_row(block, row), shown) for kind, row in rows.items()]
    return [(header,), *lines]


def kinds_of(block: Block | None, node: int) -> list[str]:
    """Return the kinds in the order of `stats_lines`."""
    return list(_rows_of(block, node))


def kind_in_words(kind: str) -> str:
    """Return a kind as a title: `gradient`, `param gradient, weight`."""
    root, _, rest = kind.partition(".")
    name = _NAMES.get(root, root).strip()
    name = f"param gradient {name}" if _NAMES.get(root, "").startswith(" ") else name
    return f"{name}, {rest}" if rest else name


def _rows_of(block: Block | None, node: int) -> dict[str, int]:
    """Return the row of each shown kind, in order."""
    if block is None:
        return {}
    rows = np.flatnonzero(block.layer == node).tolist()
    kinds = {block.kinds[int(block.kind[row])]: row for row in rows}
    return {
        kind: kinds[kind]
        for kind in sorted(kinds, key=_order_of_kind)
        if not _is_the_only_parameter(kind, kinds)
    }


def _order_of_kind(kind: str) -> tuple[int, str]:
    names = list(_NAMES)
    root = kind.partition(".")[0]
    return (names.index(root) if root in names else len(names)), kind


def _is_the_only_parameter(kind: str, kinds: Iterable[str]) -> bool:
    """Return whether the kind is the only parameter, whose numbers equal those of all parameters."""
    root, _, name = kind.partition(".")
    of_root = [each for each in kinds if each.partition(".")[0] == root]
    return bool(name) and root in of_root and len(of_root) == 2


def _stats_line(kind: str, stats: Stats, shown: int) -> Line:
    root, _, rest = kind.partition(".")
    named = _NAMES.get(root, root)
    indent = "    " if named.startswith(" ") else "  "
    name = f"{indent}{rest}" if rest else named
    label = Cell(fit(name, _KIND_WIDTH - 1) + " ")
    if not stats.is_measured:
        return (label, Cell("not measured", "dim"))
    numbers = [_number_cell(getattr(stats, column)) for column in _COLUMNS[:shown]]
    bad = ", ".join(f"{word} {count(n)}" for word, n in _nonfinite_counts(stats) if n)
    role: Role = "bad" if bad else "dim"
    many = Cell(fit(bad or count(stats.count), max(_COUNT_WIDTH, len(bad))), role)
    return (label, *numbers, many, Cell(_notes_of_row(root, stats), "merged"))


def _nonfinite_counts(stats: Stats) -> tuple[tuple[str, int], ...]:
    return ("NaN", stats.nan), ("+Inf", stats.posinf), ("-Inf", stats.neginf)


def _number_cell(value: float | None) -> Cell:
    """Return a statistic: a number, a count of elements, or None if it is not measured at this detail."""
    if value is None or not math.isfinite(value):
        return Cell(fit("   ·", _NUMBER_WIDTH), "dim")
    text = f"   {count(value)}" if isinstance(value, int) else " " + aligned(value)
    return Cell(fit(text, _NUMBER_WIDTH))


def _notes_of_row(root: str, stats: Stats) -> str:
    is_called = root.startswith(("out", "grad"))  # rows of parameters count calls, too
    notes = [f"{count(stats.calls)} calls"] if is_called and stats.calls != 1 else []
    notes += [
        f.name.lower()
        for f in (Flags.SAMPLED, Flags.SCALED, Flags.MERGED, Flags.DIFFERS)
        if f in stats.flags and f.name
    ]
    return " " + ", ".join(notes) if notes else ""
