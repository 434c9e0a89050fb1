"""`numbers_of_ranks`: the numbers of each rank in one step, beside those of the other ranks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import KINDS, Block, Flags, basic_kind
from gradscope.rules.checks.replicas import RankRows

__all__ = ["RankNumbers", "numbers_of_ranks"]

_LEAST_RANKS: Final = 3
"""Of two ranks, no one knows which differs."""

_COMPARED: Final = ("out", "grad")


@dataclass(frozen=True, slots=True)
class RankNumbers:
    """The numbers of one rank in one step.

    norms: by kind, the norm of all rows of that kind. nonfinite: elements that are NaN or infinite. differs_at: the
    layer and kind whose root mean square is furthest from the median of the ranks, differs_by: its ratio to the median;
    empty and None if fewer than three ranks have the same rows.
    """

    norms: dict[str, float]
    nonfinite: int
    differs_at: str = ""
    differs_by: float | None = None


def numbers_of_ranks(rows: RankRows) -> dict[int, RankNumbers]:
    """Return the numbers of each rank. Only outputs and their gradients are compared: each rank has its own data."""
    places = _places_of_greatest_distance(rows)
    found = {}
    for rank, (_, block) in rows.items():
        place, ratio = places.get(rank, ("", None))
        found[rank] = RankNumbers(_norms(block), _nonfinite(block), place, ratio)
    return found


def _norms(block: Block) -> dict[str, float]:
    kinds = np.array([_place_of_kind(kind) for kind in block.kinds] or [-1], np.intp)[block.kind]
    is_measured = (block.flags & Flags.NOT_MEASURED) == 0
    squares = block.column("sumsq")
    norms = {}
    for place, name in enumerate(KINDS):
        mine = (kinds == place) & is_measured
        if mine.any():
            norms[name] = float(np.sqrt(squares[mine].sum()))
    return norms


def _place_of_kind(kind: str) -> int:
    """Return the place in KINDS; -1 for variants of a kind, which are additional rows."""
    name = kind.partition(".")[0]
    return KINDS.index(name) if name in KINDS else -1


def _nonfinite(block: Block) -> int:
    is_measured = (block.flags & Flags.NOT_MEASURED) == 0
    total = block.derive("nonfinite")[is_measured]
    return int(np.nansum(total))


def _places_of_greatest_distance(rows: RankRows) -> dict[int, tuple[str, float | None]]:
    parts = list(rows.values())
    if len(parts) < _LEAST_RANKS:
        return {}
    names, first = parts[0]
    if not all(_has_same_rows(first, names, block, others) for others, block in parts[1:]):
        return {}
    is_compared = np.array([basic_kind(kind) in _COMPARED for kind in first.kinds] or [False])
    chosen = np.flatnonzero(is_compared[first.kind])
    if not len(chosen):
        return {}
    rms = np.stack([block.derive("rms")[chosen] for _, block in parts])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = rms / np.median(rms, axis=0)
        distance = np.abs(np.log(ratio))
    distance[~np.isfinite(distance)] = -1.0
    return {
        rank: _furthest(first, names, chosen, ratio[place], distance[place])
        for place, rank in enumerate(rows)
    }


def _furthest(
    block: Block,
    names: Sequence[str],
    chosen: NDArray[np.intp],
    ratio: NDArray[np.float64],
    distance: NDArray[np.float64],
) -> tuple[str, float | None]:
    place = int(distance.argmax())
    if distance[place] < 0:
        return "", None
    row = int(chosen[place])
    layer, kind = names[int(block.layer[row])], block.kinds[int(block.kind[row])]
    return f"{layer} {kind}".strip(), float(ratio[place])


def _has_same_rows(first: Block, names: Sequence[str], block: Block, others: Sequence[str]) -> bool:
    return (
        len(block) == len(first)
        and block.kinds == first.kinds
        and (others is names or tuple(others) == tuple(names))
        and np.array_equal(block.layer, first.layer)
        and np.array_equal(block.kind, first.kind)
    )
