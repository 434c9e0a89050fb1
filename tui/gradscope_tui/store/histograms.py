"""`HistogramRing`: the share of a tensor's elements in each binade, over the newest steps.

Of each row only the range of used binades is stored, positive and negative elements added: about 50
bytes instead of 1 KB. The oldest steps are removed when the total exceeds the memory limit.
"""

from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import BINADES, Block, Flags, Histograms, of_both_signs

__all__ = ["HistogramRing", "Shares"]

_LIMIT_BYTES: Final = 32 * 2**20
_LIMIT_STEPS: Final = 600
_LEAST_SHARE: Final = float(np.finfo(np.float16).smallest_subnormal)


@dataclass(frozen=True, slots=True)
class Shares:
    """Shares from 0 to 1 of all elements of one tensor, a row per step; NaN if not measured.

    `binades` has shape (steps, BINADES). Elements outside `binades` and `zero` are not finite.
    """

    steps: NDArray[np.int64]
    binades: NDArray[np.float32]
    zero: NDArray[np.float32]
    nonfinite: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Kept:
    """One step. Row i has shares[starts[i]:starts[i + 1]]; the first is the share of binade `first[i]`."""

    kinds: tuple[str, ...]
    layer: NDArray[np.uint32]
    kind: NDArray[np.uint32]
    zero: NDArray[np.float16]
    nonfinite: NDArray[np.float16]
    first: NDArray[np.uint8]
    starts: NDArray[np.uint32]
    shares: NDArray[np.float16]

    @property
    def size_bytes(self) -> int:
        arrays = (
            self.zero,
            self.nonfinite,
            self.first,
            self.starts,
            self.shares,
            self.layer,
            self.kind,
        )
        return sum(array.nbytes for array in arrays)

    def row_of(self, layer: int, kind: str) -> int | None:
        if kind not in self.kinds:
            return None
        rows = np.flatnonzero((self.layer == layer) & (self.kind == self.kinds.index(kind)))
        return int(rows[0]) if len(rows) else None


class HistogramRing:
    """Exists while its run is watched. `is_measured` is true if the newest step had a histogram."""

    def __init__(self, limit_bytes: int = _LIMIT_BYTES) -> None:
        self.is_measured = False
        self._limit_bytes = limit_bytes
        self._size_bytes = 0
        self._steps: list[int] = []
        self._kept: list[_Kept] = []

    def __len__(self) -> int:
        return len(self._steps)

    def insert(self, step: int, block: Block) -> None:
        """Store a new step if it has a histogram, and remove the oldest steps beyond the limits."""
        at = bisect_left(self._steps, step)
        if at == len(self._steps):
            self.is_measured = block.histogram is not None
        if block.histogram is None:
            return
        kept = _kept(block, block.histogram)
        self._steps.insert(at, step)
        self._kept.insert(at, kept)
        self._size_bytes += kept.size_bytes
        while len(self._steps) > 1 and (
            self._size_bytes > self._limit_bytes or len(self._steps) > _LIMIT_STEPS
        ):
            self._size_bytes -= self._kept.pop(0).size_bytes
            del self._steps[0]

    def shares(self, layer: int, kind: str, last: int, until: int) -> Shares:
        """Return the shares of the newest `last` steps up to `until`."""
        end = bisect_left(self._steps, until + 1)
        window = slice(max(0, end - last), end)
        steps = self._steps[window]
        binades = np.full((len(steps), BINADES), np.nan, np.float32)
        zero, nonfinite = np.full((2, len(steps)), np.nan, np.float32)
        for i, kept in enumerate(self._kept[window]):
            row = kept.row_of(layer, kind)
            if row is not None:
                start, end = kept.starts[row : row + 2].tolist()
                first = int(kept.first[row])
                binades[i] = 0.0
                binades[i, first : first + end - start] = kept.shares[start:end]
                zero[i], nonfinite[i] = kept.zero[row], kept.nonfinite[row]
        return Shares(np.array(steps, np.int64), binades, zero, nonfinite)

    def clear(self) -> None:
        """Remove all steps."""
        self.is_measured = False
        self._size_bytes = 0
        self._steps.clear()
        self._kept.clear()


def _kept(block: Block, histogram: Histograms) -> _Kept:
    is_known = (block.flags & Flags.NOT_MEASURED) == 0
    if not is_known.all():
        block, histogram = block.taken(is_known), histogram[is_known]
    many = np.maximum(block.column("count"), 1.0)
    both = of_both_signs(histogram)
    is_used = both > 0
    has_any = is_used.any(axis=1)
    first = np.where(has_any, is_used.argmax(axis=1), 0)
    end = np.where(has_any, BINADES - is_used[:, ::-1].argmax(axis=1), 0)
    length = end - first
    before = np.cumsum(length) - length
    row = np.repeat(np.arange(len(block)), length)
    place = np.repeat(first - before, length) + np.arange(length.sum())
    shares = both[row, place] / many[row]
    return _Kept(
        block.kinds,
        block.layer,
        block.kind,
        _as_float16(np.nan_to_num(block.column("zero")) / many),
        _as_float16(np.nan_to_num(block.derive("nonfinite")) / many),
        first.astype(np.uint8),
        np.concatenate([[0], np.cumsum(length)]).astype(np.uint32),
        _as_float16(shares),
    )


def _as_float16(shares: NDArray[np.float64]) -> NDArray[np.float16]:
    """Return shares as float16; a share above zero stays above zero."""
    return np.where(shares > 0, np.maximum(shares, _LEAST_SHARE), 0.0).astype(np.float16)
