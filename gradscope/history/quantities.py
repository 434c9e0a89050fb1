"""`layer_quantities`: the numbers of all layers in one step as arrays, for charts over many steps."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import KINDS, Block, merge_block, update_ratio

__all__ = ["QUANTITIES", "layer_quantities"]

QUANTITIES: Final = (
    "out_rms",
    "out_absmax",
    "grad_norm",
    "param_norm",
    "param_grad_norm",
    "update_ratio",
    "nonfinite",
)
"""As in the snapshot. Each is of the finite elements; `nonfinite` counts the others in all tensors of the layer."""

_COLUMNS: Final = ("count", "nan", "posinf", "neginf", "sumsq", "min", "max")


def layer_quantities(
    block: Block, layers: Sequence[str], places: Mapping[str, int]
) -> dict[str, NDArray[np.float64]]:
    """Return for each quantity an array with a number for each place; NaN where it was not measured.

    layers: the names that the block's indices refer to. places: the position of a layer in the result, for all that
        are wanted.
    """
    width = max(places.values(), default=-1) + 1
    merged = _merged_rows(
        block, np.array([places.get(name, -1) for name in layers] or [-1], np.intp), width
    )
    part = {kind: slice(i * width, (i + 1) * width) for i, kind in enumerate(KINDS)}
    norm, nonfinite = merged.derive("norm"), merged.derive("nonfinite").reshape(len(KINDS), width)
    is_measured = ~np.isnan(nonfinite)
    finite = merged.derive("finite")
    norm = np.where(finite > 0, norm, np.nan)  # of no finite element there is no norm
    return {
        "out_rms": merged.derive("rms")[part["out"]],
        "out_absmax": merged.derive("absmax")[part["out"]],
        "grad_norm": norm[part["grad"]],
        "param_norm": norm[part["param"]],
        "param_grad_norm": norm[part["param_grad"]],
        "update_ratio": update_ratio(norm[part["update"]], norm[part["param"]]),
        "nonfinite": np.where(is_measured.any(axis=0), np.nansum(nonfinite, axis=0), np.nan),
    }


def _merged_rows(block: Block, place: NDArray[np.intp], width: int) -> Block:
    """Return one row for each kind and place, all places of `out` first.

    `out.0` and `out.1` are merged into `out` only if there is no row `out`. Variants of a kind, such as the gradient
    before an intervention, are left out.
    """
    roots = [kind.partition(".")[0] for kind in block.kinds]
    root_of_kind = np.array([KINDS.index(n) if n in KINDS else -1 for n in roots] or [-1], np.intp)
    is_whole_kind = np.array([kind in KINDS for kind in block.kinds] or [False])
    root, at = root_of_kind[block.kind], place[block.layer]
    rows = np.flatnonzero((root >= 0) & (at >= 0))
    keys, is_whole = root[rows] * width + at[rows], is_whole_kind[block.kind[rows]]
    has_whole = np.zeros(len(KINDS) * width, bool)
    has_whole[keys[is_whole]] = True
    is_taken = is_whole | ~has_whole[keys]
    rows, keys = rows[is_taken], keys[is_taken]
    values = {name: array[rows] for name, array in block.values.items() if name in _COLUMNS}
    taken = Block(block.kinds, block.layer[rows], block.kind[rows], block.flags[rows], values)
    return merge_block(taken, keys, len(KINDS) * width)
