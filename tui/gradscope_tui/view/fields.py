"""The values of the form's fields: suggested values, and the parser of typed values."""

import math
from collections.abc import Sequence

import numpy as np

from gradscope.catalogue import INTERVENTIONS, Argument
from gradscope.errors import UsageError
from gradscope.protocol import ArgumentInfo
from gradscope_tui.store.measure import Frame

__all__ = ["count_of", "number_of", "suggested_value"]


def suggested_value(
    intervention: str, argument: str, frame: Frame | None, layers: Sequence[str]
) -> float | None:
    """Return a value that has an effect on the newest gradients of the layers, to two digits.

    None for an argument that the catalogue does not have.
    """
    spec = INTERVENTIONS.get(intervention)
    known = next((a for a in spec.arguments if a.name == argument), None) if spec else None
    if known is None:
        return None
    suggestion = known.suggestion
    block = frame.block if frame else None
    if frame is None or block is None or not suggestion.statistic or "grad" not in block.kinds:
        return suggestion.otherwise
    nodes = [i for i, layer in enumerate(frame.tree.layers) if layer.name in set(layers)]
    rows = np.isin(block.layer, nodes) & (block.kind == block.kinds.index("grad"))
    values = block.derive(suggestion.statistic)[rows]
    usable = values[np.isfinite(values) & (values > 0)]
    if not len(usable):
        return suggestion.otherwise
    return float(f"{suggestion.factor * usable.max():.2g}")


def number_of(info: ArgumentInfo, text: str) -> float:
    """Return the number in `text`. Raises UsageError, with the allowed range, for anything else."""
    argument = Argument(
        info.name,
        info.help,
        info.kind,
        lowest=-math.inf if info.lowest is None else info.lowest,
        highest=math.inf if info.highest is None else info.highest,
        may_be_infinite=True,
    )
    try:
        return float(argument.check(info.name, float(text.strip().replace(",", "."))))
    except ValueError:  # a UsageError is one
        name = info.name.replace("_", " ")
        raise UsageError(f"{name}: expected {argument.range_in_words}, got {text!r}") from None


def count_of(text: str) -> int | None:
    """Return the integer of at least 0 in `text`, or None."""
    return int(text) if text.isdecimal() else None
