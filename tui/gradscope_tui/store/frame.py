"""`Frame`: an immutable copy of the newest step for the views, so that a view can be frozen."""

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
    """The numbers of one step for all nodes, and the recent trend.

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
