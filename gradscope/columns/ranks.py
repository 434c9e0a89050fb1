"""Merges the rows of one step from all ranks of a job."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.columns.block import Block, Digests, merge_block
from gradscope.columns.histogram import Histograms
from gradscope.columns.schema import COLUMNS, CORE_COLUMNS, Flags, Merge

__all__ = ["merge_ranks"]

_EXACT = tuple(
    column.name
    for column in COLUMNS
    if column.is_core and column.name != "calls" and (column.is_count or column.merge is not Merge.ADD)
)
"""Columns that must be bitwise equal in replicas. Sums are excluded: the order of summation may differ."""

_Rows: TypeAlias = NDArray[np.intp]


def merge_ranks(parts: Sequence[tuple[Sequence[str], Block]]) -> tuple[tuple[str, ...], Block]:
    """Merge the blocks of several ranks, in ascending order of ranks, each given with its layer names.

    Returns the names of all layers, and one row for each layer and kind, merged over the ranks column by
    column. Of rows flagged REPLICA only one is used; if the others differ from it, the merged row is
    flagged DIFFERS. Columns that a rank has not measured are omitted, and so are the histogram and the digests.
    Raises UsageError if `parts` is empty.
    """
    names, whole = _together(parts)
    keys = whole.layer.astype(np.intp) * max(len(whole.kinds), 1) + whole.kind
    is_taken = _taken(keys, (whole.flags & Flags.REPLICA).astype(bool))
    taken, copies = whole.taken(is_taken), whole.taken(~is_taken)
    found, groups = np.unique(keys[is_taken], return_inverse=True)
    merged = merge_block(taken, groups, len(found))
    flags = np.zeros(len(found), np.uint8)
    np.bitwise_or.at(flags, groups, taken.flags & ~np.uint8(Flags.REPLICA))
    sizes = np.bincount(groups, minlength=len(found))
    place = np.searchsorted(found, keys[~is_taken])
    differs = _differing(merged, copies, place) & (sizes[place] == 1)
    flags[place[differs]] |= np.uint8(Flags.DIFFERS)
    layer = (found // max(len(whole.kinds), 1)).astype(np.uint32)
    return names, replace(merged, layer=layer, flags=flags)


def _together(parts: Sequence[tuple[Sequence[str], Block]]) -> tuple[tuple[str, ...], Block]:
    """Return the rows of all ranks, concatenated, with common lists of layers and kinds."""
    names = tuple(dict.fromkeys(name for each, _ in parts for name in each))
    kinds = tuple(dict.fromkeys(kind for _, block in parts for kind in block.kinds))
    of_name = {name: i for i, name in enumerate(names)}
    of_kind = {kind: i for i, kind in enumerate(kinds)}
    layers, kind_rows = [], []
    for each, block in parts:
        layers.append(np.array([of_name[name] for name in each], np.uint32)[block.layer])
        kind_rows.append(np.array([of_kind[kind] for kind in block.kinds], np.uint32)[block.kind])
    columns = set.intersection(*(set(block.values) for _, block in parts))
    return names, Block(
        kinds,
        np.concatenate(layers),
        np.concatenate(kind_rows),
        np.concatenate([block.flags for _, block in parts]),
        {name: np.concatenate([block.values[name] for _, block in parts]) for name in columns},
        _all_histograms([block.histogram for _, block in parts]),
        _all_digests([block.digest for _, block in parts]),
    )


def _all_histograms(parts: Sequence[Histograms | None]) -> Histograms | None:
    known = [histogram for histogram in parts if histogram is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def _all_digests(parts: Sequence[Digests | None]) -> Digests | None:
    known = [digest for digest in parts if digest is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def _taken(keys: _Rows, is_replica: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return a mask of the rows to merge: all rows except replicas that repeat an earlier row."""
    is_taken = ~is_replica
    alone = is_replica & ~np.isin(keys, keys[is_taken])
    where = np.flatnonzero(alone)
    _, first = np.unique(keys[where], return_index=True)
    is_taken[where[first]] = True
    return is_taken


def _differing(merged: Block, copies: Block, place: _Rows) -> NDArray[np.bool_]:
    differs = np.zeros(len(copies), np.bool_)
    if CORE_COLUMNS.issubset(merged.values):
        for name in _EXACT:
            differs |= copies.values[name] != merged.values[name][place]
    if copies.histogram is not None and merged.histogram is not None:
        differs |= (copies.histogram != merged.histogram[place]).any(axis=1)
    if copies.digest is not None and merged.digest is not None:
        differs |= copies.digest != merged.digest[place]
    return differs
