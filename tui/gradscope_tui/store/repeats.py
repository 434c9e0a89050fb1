"""Repeated blocks: consecutive siblings of the same structure, such as the 150 blocks of a transformer.

A block is one sibling with everything below it, or up to `_LONGEST` siblings that repeat together, such as
`Linear, ReLU` in a deep `Sequential`. Structures are equal if types, shapes and inner names are.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gradscope_tui.store.layers import LayerTree
from gradscope_tui.store.measure import QUANTITIES, Frame

__all__ = ["LEAST_BLOCKS", "Far", "Repeat", "Spread", "find_repeats", "spread_of"]

LEAST_BLOCKS = 3
"""A median of two numbers is neither of them."""

_LONGEST = 4
_FLOOR = 0.1
"""The lowest deviation between blocks, as a natural logarithm: 10 %, so that blocks that are equal do not differ."""

_STAYS = 1.5
"""Another layer becomes the furthest if it is this many times as far: noise must not change it in each step."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """`nodes[i, j]` is node j of block i; column 0 is the block itself. `siblings` are the columns at its top.

    Blocks take the places `start` to `end` of the tree's order.
    """

    start: int
    end: int
    nodes: NDArray[np.intp]
    siblings: tuple[int, ...]

    @property
    def first(self) -> int:
        """The first node, which stands for the repeat."""
        return int(self.nodes[0, 0])


class Far(NamedTuple):
    """A node and the quantity in which it is `ratio` times the median; NaN if it is not finite."""

    deviations: float
    node: int
    quantity: str
    ratio: float


@dataclass(frozen=True, slots=True)
class Spread:
    """A folded repeat in one step. `median` has the median of each quantity over the blocks; NaN if not measured.

    `broken` counts the blocks with a nonfinite number, by quantity. `trend` is the median trend. `furthest` is
    the node that differs most from the same node of the other blocks; None if nothing was measured.
    """

    repeat: Repeat
    median: dict[str, float] = field(default_factory=dict)
    broken: dict[str, int] = field(default_factory=dict)
    trend: NDArray[np.floating] = field(default_factory=lambda: np.zeros(0))
    furthest: Far | None = None


def find_repeats(tree: LayerTree) -> dict[int, Repeat]:
    """Find the repeated blocks of a tree, at all depths. The keys are their first nodes."""
    structures = _structures(tree)
    found: dict[int, Repeat] = {}
    for family in _families(tree):
        place = 0
        while place < len(family):
            period, count = _repetition([structures[node] for node in family[place:]])
            if count:
                repeat = _repeat_of(tree, family[place : place + period * count], period)
                found[repeat.first] = repeat
            place += max(1, period * count)
    return found


def _structures(tree: LayerTree) -> list[int]:
    """Return a number for each node; it is the same for nodes of equal structure."""
    known: dict[object, int] = {}
    numbers = [0] * len(tree)
    inside: dict[int, list[tuple[str, int]]] = {}
    for node in reversed(tree.order):  # children before their parents
        layer = tree.layers[node]
        shapes = tuple((each.name, each.shape, each.is_trainable) for each in layer.parameters)
        key = layer.type, layer.is_watched, shapes, tuple(inside.get(node, ()))
        numbers[node] = known.setdefault(key, len(known))
        inside.setdefault(tree.parent[node], []).append((tree.label[node], numbers[node]))
    return numbers


def _families(tree: LayerTree) -> list[list[int]]:
    """Return the nodes below each parent, in order."""
    families: dict[int, list[int]] = {}
    for node in tree.order:
        families.setdefault(tree.parent[node], []).append(node)
    return list(families.values())


def _repetition(structures: list[int]) -> tuple[int, int]:
    """Return the siblings per block at the start of a list, and the number of blocks; 0 if there are too few."""
    best = 1, 0
    for period in range(1, _LONGEST + 1):
        same = 0
        while same + period < len(structures) and structures[same] == structures[same + period]:
            same += 1
        count = same // period + 1
        if count >= LEAST_BLOCKS and period * count > best[0] * best[1]:
            best = period, count
    return best


def _repeat_of(tree: LayerTree, family: list[int], period: int) -> Repeat:
    start, end = tree.place[family[0]], tree.end[family[-1]]
    nodes = np.array(tree.order[start:end], np.intp).reshape(len(family) // period, -1)
    tops = set(family[:period])
    siblings = tuple(place for place, node in enumerate(nodes[0].tolist()) if node in tops)
    return Repeat(start, end, nodes, siblings)


def spread_of(repeat: Repeat, frame: Frame, before: int | None = None) -> Spread:
    """Return the spread of a repeat. `before` is the furthest node until now; it stays if no other is much further."""
    measured = frame.measured
    broken, median = {}, {}
    found: list[Far] = []
    stays = repeat.nodes == before
    for quantity in QUANTITIES:
        name = quantity.name
        nonfinite = (measured.nan[name] + measured.inf[name])[repeat.nodes] > 0
        values = np.where(nonfinite, np.nan, measured.values[name][repeat.nodes])
        broken[name] = int(nonfinite.any(axis=1).sum())
        medians = _medians(values)
        median[name] = next(
            (m for m in medians[list(repeat.siblings)].tolist() if not np.isnan(m)), np.nan
        )
        distance = _distances(values, medians)
        distance[nonfinite] = np.inf
        for candidates in (np.where(stays, distance, -1.0), distance):
            at = np.unravel_index(int(np.argmax(candidates)), distance.shape)
            if candidates[at] >= 0:
                ratio = np.nan if nonfinite[at] else values[at] / medians[at[1]]
                found.append(Far(float(distance[at]), int(repeat.nodes[at]), name, float(ratio)))
    best = max(found, default=None)
    kept = max((far for far in found if far.node == before), default=None)
    if best and kept and best.deviations <= _STAYS * kept.deviations:
        best = kept
    trend = np.full(len(frame.trend), np.nan)
    if len(frame.trend):
        trend = _medians(frame.trend[:, repeat.nodes[:, repeat.siblings[0]]].T.astype(np.float64))
    return Spread(repeat, median, broken, trend, best)


def _medians(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the median of each column, without NaN; numpy.nanmedian is ten times slower."""
    ordered = np.sort(values, axis=0)  # NaN last
    known = (~np.isnan(ordered)).sum(axis=0)
    columns = np.arange(values.shape[1])
    low, high = (
        ordered[np.maximum(known - 1, 0) // 2, columns],
        ordered[known // 2 % len(values), columns],
    )
    return np.where(known > 0, np.where(known % 2 == 1, low, (low + high) / 2), np.nan)


def _distances(values: NDArray[np.float64], medians: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how many deviations each logarithm is from the median of its column; -1 if it was not measured.

    The deviation is 1.4826 times the median distance over all layers: outliers do not change it, and the few
    numbers of one column are not needed for it.
    """
    known = ~np.isnan(values) & (medians > 0)
    tiny = np.finfo(np.float64).tiny
    with np.errstate(invalid="ignore"):
        logs = np.where(
            known, np.log(np.maximum(values, tiny) / np.where(medians > 0, medians, 1.0)), np.nan
        )
    usual = 1.4826 * float(np.median(np.abs(logs[known]))) if known.any() else 0.0
    return np.where(known, np.abs(logs) / max(usual, _FLOOR), -1.0)
