"""`Frame`: the newest step as the views show it, whole and unchanging, so that a view can be frozen."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradscope.columns import Block
from gradscope_tui.store.layers import LayerTree
from gradscope_tui.store.measure import Measured

__all__ = ["Frame"]


@dataclass(frozen=True, slots=True)
class Frame:
    """What one step looks like, with a little of the past.

    `trend` is the gradient's norm over steps, shape (steps, nodes); a row of NaN is a gap.
    `block` is the newest step's own, None before the first.
    """

    tree: LayerTree
    measured: Measured
    heat: Mapping[str, NDArray[np.int8]]
    trend: NDArray[np.floating]
    block: Block | None

    def is_nonfinite(self) -> NDArray[np.bool_]:
        """Return for each node whether anything of it was NaN or infinite."""
        counts = [*self.measured.nan.values(), *self.measured.inf.values()]
        return np.asarray(np.sum(counts, axis=0) > 0)
