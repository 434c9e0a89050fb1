"""The quantities that the screen shows of each node, computed from a step's block.

    out_std          deviation of the outputs' elements
    grad_norm        norm of the gradient of the outputs
    param_grad_norm  norm of the parameters' gradients
    update_ratio     |Δw| / |w|

The parameters of a container are merged from the layers below it and flagged MERGED. Outputs are never
merged, because outputs of different layers are not comparable.
"""
# ruff: noqa: RUF001 - the signs are meant

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import KINDS, Block, Flags, merge_block, update_ratio
from gradscope_tui.store.layers import LayerTree

__all__ = [
    "QUANTITIES",
    "Frame",
    "Measured",
    "MergePlan",
    "Quantity",
    "measure",
    "merge_plan",
    "not_measured",
]

_OF_PARAMETERS = ("param", "param_grad", "update")
_COLUMNS = ("count", "nan", "posinf", "neginf", "sum", "sumsq")


@dataclass(frozen=True, slots=True)
class Quantity:
    """One number of each node, and the kind of row that it is computed from."""

    name: str
    title: str
    meaning: str
    kind: str


QUANTITIES: tuple[Quantity, ...] = (
    Quantity("out_std", "σ out", "activation: deviation of the output", "out"),
    Quantity("grad_norm", "‖∇out‖", "gradient: norm at the output", "grad"),
    Quantity("param_grad_norm", "‖∇w‖", "gradient: norm at the parameters", "param_grad"),
    Quantity("update_ratio", "Δw/w", "update: |Δw| / |w|", "update"),
)


@dataclass(frozen=True, slots=True)
class Measured:
    """The quantities of one step by name; each array has one number per node.

    `values` is NaN, and `flags` has NOT_MEASURED, if a node was not measured. `nan` and `inf` count
    elements that are not finite; `values` is computed from the finite ones.
    """

    step: int
    values: Mapping[str, NDArray[np.float64]]
    flags: Mapping[str, NDArray[np.uint8]]
    nan: Mapping[str, NDArray[np.float64]]
    inf: Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Frame:
    """The numbers of one step for all nodes, and the recent trend. It does not change, so a view can keep it.

    `trend` is the gradient norm over steps, shape (steps, nodes); a row of NaN is a gap. `block` is that
    of the newest step, None before the first.
    """

    tree: LayerTree
    measured: Measured
    heat: Mapping[str, NDArray[np.int8]]
    trend: NDArray[np.floating]
    block: Block | None

    def is_nonfinite(self) -> NDArray[np.bool_]:
        """Return for each node whether it has a NaN or infinite element."""
        counts = [*self.measured.nan.values(), *self.measured.inf.values()]
        return np.asarray(np.sum(counts, axis=0) > 0)


def not_measured(nodes: int) -> Measured:
    """Return the quantities before the first step: none measured."""
    names = [quantity.name for quantity in QUANTITIES]
    nothing = np.full(nodes, np.nan)
    flags = np.full(nodes, Flags.NOT_MEASURED, np.uint8)
    zero = np.zeros(nodes)
    return Measured(
        -1,
        dict.fromkeys(names, nothing),
        dict.fromkeys(names, flags),
        dict.fromkeys(names, zero),
        dict.fromkeys(names, zero),
    )


@dataclass(frozen=True, slots=True)
class MergePlan:
    """Which rows of a block are merged into which of one row for each root kind and node. Steps of a run share it."""

    tree: LayerTree
    kinds: tuple[str, ...]
    layer: NDArray[np.integer]
    kind: NDArray[np.integer]
    rows: NDArray[np.intp]
    groups: NDArray[np.intp]

    def fits(self, block: Block, tree: LayerTree) -> bool:
        """Return whether a block has the same rows of the same layers."""
        return (
            self.tree is tree
            and self.kinds == block.kinds
            and np.array_equal(self.layer, block.layer)
            and np.array_equal(self.kind, block.kind)
        )


def merge_plan(block: Block, tree: LayerTree, earlier: MergePlan | None = None) -> MergePlan:
    """Return the plan for a block: that of an earlier step if it has the same rows."""
    return earlier if earlier is not None and earlier.fits(block, tree) else _plan_of(block, tree)


def measure(block: Block, tree: LayerTree, step: int, plan: MergePlan | None = None) -> Measured:
    """Return the quantities of a step. Rows of layers that are not in the tree are ignored. plan: of this block."""
    plan = plan or _plan_of(block, tree)
    merged = _merged_rows(block, plan)
    nodes = len(tree)
    part = {root: slice(i * nodes, (i + 1) * nodes) for i, root in enumerate(KINDS)}
    norm, std = merged.derive("norm"), merged.derive("std")
    nan = merged.column("nan")
    inf = merged.column("posinf") + merged.column("neginf")
    unknown = (merged.flags & Flags.NOT_MEASURED).astype(bool)
    nan, inf = np.where(unknown, 0.0, np.nan_to_num(nan)), np.where(unknown, 0.0, np.nan_to_num(inf))
    values = {
        "out_std": std[part["out"]],
        "grad_norm": norm[part["grad"]],
        "param_grad_norm": norm[part["param_grad"]],
        "update_ratio": update_ratio(norm[part["update"]], norm[part["param"]]),
    }
    return Measured(
        step,
        values,
        {q.name: merged.flags[part[q.kind]] for q in QUANTITIES},
        {q.name: nan[part[q.kind]] for q in QUANTITIES},
        {q.name: inf[part[q.kind]] for q in QUANTITIES},
    )


def _plan_of(block: Block, tree: LayerTree) -> MergePlan:
    nodes = len(tree)
    rows, key = _rows_to_read(block, nodes)
    root, layer = np.divmod(key, max(nodes, 1))
    upward = np.isin(root, [KINDS.index(kind) for kind in _OF_PARAMETERS])
    own_rows, own_key = rows[~upward], key[~upward]
    up_rows, up_key = _into_ancestors(rows[upward], root[upward], layer[upward], tree)
    rows, groups = np.concatenate([own_rows, up_rows]), np.concatenate([own_key, up_key])
    return MergePlan(tree, block.kinds, block.layer, block.kind, rows, groups)


def _merged_rows(block: Block, plan: MergePlan) -> Block:
    """Return one merged row for each root kind and node, all nodes of `out` first."""
    rows = plan.rows
    taken = Block(
        block.kinds,
        block.layer[rows],
        block.kind[rows],
        block.flags[rows],
        {name: array[rows] for name, array in block.values.items() if name in _COLUMNS},
    )
    return merge_block(taken, plan.groups, len(KINDS) * len(plan.tree))


def _rows_to_read(block: Block, nodes: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows that the root kinds are merged from, and for each root * nodes + layer.

    `out.0` and `out.1` are merged into `out` only if there is no row `out`.
    """
    names = [kind.partition(".")[0] for kind in block.kinds]
    root_of_kind = np.array([KINDS.index(n) if n in KINDS else -1 for n in names] or [-1], np.intp)
    is_whole_kind = np.array([kind in KINDS for kind in block.kinds] or [False])
    root, is_whole = root_of_kind[block.kind], is_whole_kind[block.kind]
    known = np.flatnonzero((root >= 0) & (block.layer < nodes))
    key = root[known] * nodes + block.layer[known].astype(np.intp)
    has_whole = np.zeros(len(KINDS) * nodes, bool)
    has_whole[key[is_whole[known]]] = True
    keep = is_whole[known] | ~has_whole[key]
    return known[keep], key[keep]


def _into_ancestors(
    rows: NDArray[np.intp], root: NDArray[np.intp], layer: NDArray[np.intp], tree: LayerTree
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Repeat each row for its own node and each of its ancestors."""
    starts = np.searchsorted(tree.family_node, layer)
    counts = np.searchsorted(tree.family_node, layer, side="right") - starts
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    ancestors = tree.family_ancestor[np.repeat(starts, counts) + within]
    return np.repeat(rows, counts), np.repeat(root, counts) * len(tree) + ancestors
