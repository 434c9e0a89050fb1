"""Merges the rows of one step from all ranks of a job."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.columns.block import GROUP_REDUCE, Block, Digests, merge_block
from gradscope.columns.histogram import Histograms
from gradscope.columns.schema import COLUMNS, CORE_COLUMNS, Flags, Merge
from gradscope.errors import UsageError

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
    flagged DIFFERS. If all of them are flagged, as on a node without the first rank, so is the merged row, and
    nothing is compared, because they may be copies of different shards: merged rows can be merged
    again. Columns that a rank has not measured are omitted, and so are the histogram and the digests.
    Raises UsageError if `parts` is empty.
    """
    if not parts:
        raise UsageError("merge_ranks needs at least one rank, got none")
    if _have_equal_rows(parts):
        return tuple(parts[0][0]), _merge_equal_rows([block for _, block in parts])
    return _merge_by_key(parts)


def _merge_by_key(parts: Sequence[tuple[Sequence[str], Block]]) -> tuple[tuple[str, ...], Block]:
    """Merge blocks with any rows: rows of different ranks belong together if layer and kind are equal."""
    names, whole = _together(parts)
    keys = _keys(whole)
    is_taken = _taken(keys, (whole.flags & Flags.REPLICA).astype(bool))
    taken, copies = whole.taken(is_taken), whole.taken(~is_taken)
    found, groups = np.unique(keys[is_taken], return_inverse=True)
    merged = merge_block(taken, groups, len(found))
    flags = np.zeros(len(found), np.uint8)
    np.bitwise_or.at(flags, groups, taken.flags)
    sizes = np.bincount(groups, minlength=len(found))
    place = np.searchsorted(found, keys[~is_taken])
    is_one = (sizes[place] == 1) & ((flags[place] & Flags.REPLICA) == 0)
    differs = is_one & _has_calls_of(merged, copies, place) & _differing(merged, copies, place)
    flags[place[differs]] |= np.uint8(Flags.DIFFERS)
    layer = (found // max(len(whole.kinds), 1)).astype(np.uint32)
    return names, replace(merged, layer=layer, flags=flags)


def _have_equal_rows(parts: Sequence[tuple[Sequence[str], Block]]) -> bool:
    """Return whether all ranks have the same rows in the same order, each row at most once, as replicas do.

    A row is then either data of each rank, or data of the first one and copies of it: one array operation for each
    column merges them, which takes a tenth of the time.
    """
    names, first = parts[0]
    keys = _keys(first)
    if len(parts) < 2 or not (keys[1:] > keys[:-1]).all() or (first.flags & Flags.REPLICA).any():
        return False
    of_second = parts[1][1].flags & Flags.REPLICA
    return len(set(names)) == len(names) and all(
        block.kinds == first.kinds
        and (other is names or tuple(other) == tuple(names))
        and len(block) == len(first)
        and block.values.keys() == first.values.keys()
        and np.array_equal(block.layer, first.layer)
        and np.array_equal(block.kind, first.kind)
        and np.array_equal(block.flags & Flags.REPLICA, of_second)
        for other, block in parts[1:]
    )


def _merge_equal_rows(blocks: Sequence[Block]) -> Block:
    first = blocks[0]
    is_copy = (blocks[1].flags & Flags.REPLICA).astype(bool)
    values: dict[str, NDArray[np.generic]] = {}
    for column in COLUMNS:
        if column.name in first.values:
            start, reduce = GROUP_REDUCE[column.merge]
            dtype = np.uint64 if column.is_count else np.float64
            own = np.stack(
                [block.values[column.name] for block in blocks], dtype=dtype, casting="unsafe"
            )
            merged = reduce.reduce(own, axis=0, initial=start)
            values[column.name] = np.where(is_copy, reduce(own[0], dtype(start)), merged)
    flags = np.bitwise_or.reduce([block.flags for block in blocks], axis=0)
    flags = np.where(is_copy, first.flags, flags)
    histogram, digest = _merged_extras(blocks, is_copy)
    merged_block = Block(first.kinds, first.layer, first.kind, flags, values, histogram, digest)
    if is_copy.any():
        for block in blocks[1:]:
            places = np.arange(len(first))
            differs = is_copy & _has_calls_of(merged_block, block, places)
            differs &= _differing(merged_block, block, places)
            flags[differs] |= np.uint8(Flags.DIFFERS)
    return merged_block


def _merged_extras(
    blocks: Sequence[Block], is_copy: NDArray[np.bool_]
) -> tuple[Histograms | None, Digests | None]:
    """Return the histogram and the digests of all blocks, added except for copies; None where one has none."""
    first = blocks[0]
    histogram, digest = first.histogram, first.digest
    if histogram is not None:
        histogram = histogram.copy()
        for block in blocks[1:]:
            if block.histogram is None:
                histogram = None
                break
            histogram[~is_copy] += block.histogram[~is_copy]
    if digest is not None:
        known = [block.digest for block in blocks if block.digest is not None]
        together = np.stack(known)
        total = np.where(
            (together == 0).any(axis=0), np.uint64(0), together.sum(axis=0, dtype=np.uint64)
        )
        digest = np.where(is_copy, digest, total) if len(known) == len(blocks) else None
    return histogram, digest


def _keys(block: Block) -> _Rows:
    return block.layer.astype(np.intp) * max(len(block.kinds), 1) + block.kind


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


def _has_calls_of(merged: Block, copies: Block, place: _Rows) -> NDArray[np.bool_]:
    """Return which copies cover as many tensors as their row: those of one node may have more shards than others."""
    if "calls" not in merged.values:
        return np.ones(len(copies), np.bool_)
    return np.equal(copies.column("calls"), merged.column("calls")[place])


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
