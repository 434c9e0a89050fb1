"""The value that a form starts with: from the layers' newest gradients, so that it has an effect."""

from collections.abc import Sequence

import numpy as np

from gradscope_tui.store import Frame

__all__ = ["default_value"]

_FIXED = {"reverse": 1.0, "scale": 0.1}
_UNKNOWN = {"clip": 1.0, "clamp": 1.0, "noise": 1e-3}
_PART = {"clip": ("norm", 0.5), "clamp": ("absmax", 0.5), "noise": ("rms", 0.1)}


def default_value(action: str, frame: Frame | None, layers: Sequence[str]) -> float:
    """Return a value: half of the greatest norm to clip at, half of the greatest element to clamp."""
    if action in _FIXED:
        return _FIXED[action]
    unknown = _UNKNOWN.get(action, 1.0)
    if frame is None or frame.block is None or "grad" not in frame.block.kinds:
        return unknown
    block = frame.block
    nodes = [i for i, layer in enumerate(frame.tree.layers) if layer.name in set(layers)]
    rows = np.isin(block.layer, nodes) & (block.kind == block.kinds.index("grad"))
    statistic, part = _PART[action]
    values = block.derive(statistic)[rows]
    usable = values[np.isfinite(values) & (values > 0)]
    return float(f"{part * usable.max():.2g}") if len(usable) else unknown
