"""The independent reference: a record computed by NumPy in float64 from the raw elements."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from gradscope.columns import Block, Stats


def _stats_of(x: np.ndarray) -> Stats:
    """Return the record of one array; sums are correctly rounded."""
    wide = x.astype(np.float64).ravel()
    finite = wide[np.isfinite(wide)]
    tiny = np.finfo(x.dtype).tiny
    return Stats(
        calls=1,
        count=wide.size,
        nan=int(np.isnan(wide).sum()),
        posinf=int((wide == np.inf).sum()),
        neginf=int((wide == -np.inf).sum()),
        zero=int((wide == 0).sum()),
        subnormal=int(((wide != 0) & (np.abs(wide) < tiny)).sum()),
        sum=math.fsum(finite),
        sumsq=math.fsum(finite**2),
        min=float(finite.min(initial=np.inf)),
        max=float(finite.max(initial=-np.inf)),
        histogram=_bins_of(finite),
    )


def _bins_of(finite: np.ndarray) -> tuple[int, ...]:
    """Return the 128 bins; frexp gives |x| = m 2^e with 0.5 <= m < 1, so floor(log2|x|) is e - 1."""
    nonzero = finite[finite != 0]
    places = np.clip(np.frexp(nonzero)[1] - 1 + 47, 0, 63) + 64 * (nonzero < 0)
    return tuple(np.bincount(places, minlength=128).tolist())


def _block_of(
    rows: list[Stats], layer: list[int] | None = None, kind: list[int] | None = None
) -> Block:
    """Return rows as a block of the kinds `out` and `grad`; a column that a row lacks is left out."""
    n = len(rows)
    names = [name for name in Stats.__slots__ if name not in ("flags", "histogram", "digest")]
    digests = [row.digest for row in rows if row.digest is not None]
    bins = [row.histogram for row in rows if row.histogram is not None]
    values = {
        name: np.array(
            [getattr(row, name) for row in rows],
            np.float64 if name in ("sum", "sumsq", "min", "max") else np.uint64,
        )
        for name in names
        if all(getattr(row, name) is not None for row in rows)
    }
    return Block(
        kinds=("out", "grad"),
        layer=np.array(range(n) if layer is None else layer, np.uint32),
        kind=np.array([0] * n if kind is None else kind, np.uint32),
        flags=np.array([row.flags for row in rows], np.uint8),
        values=values,
        histogram=np.array(bins, np.uint64).reshape(n, 128) if len(bins) == n else None,
        digest=np.array(digests, np.uint64) if len(digests) == n else None,
    )


@pytest.fixture(scope="session")
def stats_of() -> Callable[[np.ndarray], Stats]:
    return _stats_of


@pytest.fixture(scope="session")
def block_of() -> Callable[..., Block]:
    return _block_of
