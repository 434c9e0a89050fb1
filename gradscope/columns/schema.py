"""The columns of a row, as one table that all other packages use.

A row is a *mergeable record*: each column of two records combines by its own rule, so that calls,
micro-batches, ranks and time windows merge exactly. Other quantities (mean, std, norm, ...) are derived
from these columns in `gradscope.columns.derived`; they are never stored or sent.
"""

import enum
from dataclasses import dataclass

__all__ = [
    "BASIC_KINDS",
    "COLUMNS",
    "COLUMN_NAMES",
    "CORE_COLUMNS",
    "INPUT_KIND",
    "KINDS",
    "Column",
    "Flags",
    "Merge",
    "basic_kind",
]


class Merge(enum.Enum):
    """How a column of two records combines."""

    ADD = "add"
    MIN = "min"
    MAX = "max"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, its merge rule, and whether it is an integer count of elements."""

    name: str
    merge: Merge
    is_count: bool
    is_core: bool
    meaning: str
    power: int = 0
    """If a tensor is multiplied by s > 0, this column is multiplied by s ** power."""


COLUMNS: tuple[Column, ...] = (
    Column("calls", Merge.ADD, True, True, "tensors merged into the row"),
    Column("count", Merge.ADD, True, True, "elements, finite or not"),
    Column("nan", Merge.ADD, True, True, "elements that are not a number"),
    Column("posinf", Merge.ADD, True, True, "elements that are +inf"),
    Column("neginf", Merge.ADD, True, True, "elements that are -inf"),
    Column("zero", Merge.ADD, True, False, "elements that are +0 or -0"),
    Column("subnormal", Merge.ADD, True, False, "nonzero elements below the dtype's normal range"),
    Column("sum", Merge.ADD, False, True, "sum of the finite elements", 1),
    Column("sumsq", Merge.ADD, False, True, "sum of squares of the finite elements", 2),
    Column("min", Merge.MIN, False, True, "least finite element; +inf where there is none", 1),
    Column("max", Merge.MAX, False, True, "greatest finite element; -inf where there is none", 1),
)

COLUMN_NAMES: tuple[str, ...] = tuple(column.name for column in COLUMNS)
CORE_COLUMNS: frozenset[str] = frozenset(column.name for column in COLUMNS if column.is_core)

KINDS: tuple[str, ...] = ("out", "grad", "param", "param_grad", "update")
"""The kinds of tensor that are recorded. A suffix after a dot distinguishes several of one kind:
`out.0`, `out.hidden`, `param_grad.weight`."""

BASIC_KINDS: dict[str, str] = {
    **{kind: kind for kind in KINDS},
    "grad_arriving": "grad",  # before an intervention
    "grad_create_graph": "grad",  # of a backward pass that builds a graph
    "grad_create_graph_arriving": "grad",
    "param_grad_arriving": "param_grad",  # before an intervention
    "param_grad_before_clip": "param_grad",  # before the script clipped it
}
"""All kinds that a row can have, without suffix, each with the kind of KINDS that it is a variant of."""

INPUT_KIND = "input"
"""Rows of the model's inputs, `input.0` or `input.input_ids`, to compare runs. No rule or view reads them."""


def basic_kind(kind: str) -> str:
    """Return the kind of KINDS of a row's kind: `param_grad` of `param_grad_before_clip.weight`."""
    name = kind.partition(".")[0]
    return BASIC_KINDS.get(name, name)


class Flags(enum.IntFlag):
    """Properties of a row in addition to its numbers."""

    EXACT = 0
    SAMPLED = 1
    """Only a part of the elements was read."""
    SCALED = 2
    """The gradient is still multiplied by an AMP loss scale."""
    NOT_MEASURED = 4
    """A hook was installed but never called: nothing is known, and all columns are empty."""
    MERGED = 8
    """The row was merged from the rows of several layers."""
    REPLICA = 16
    """A copy of a row of a lower rank: left out if ranks are merged."""
    DIFFERS = 32
    """Copies that should be equal on all ranks differ."""
