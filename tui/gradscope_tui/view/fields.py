"""The values of the form's fields: suggested values, and the parser of typed values."""

import math
from collections.abc import Sequence

import numpy as np

from gradscope.catalogue import INTERVENTIONS
from gradscope.protocol import ArgumentInfo
from gradscope_tui.store.measure import Frame

__all__ = ["count_of", "number_of", "range_in_words", "suggested_value"]


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


def number_of(argument: ArgumentInfo, text: str) -> float | None:
    """Return the number in `text`; None if it is not a number, or outside the argument's range."""
    try:
        value = float(text.strip().replace(",", "."))
    except ValueError:
        return None
    is_whole = argument.kind != "whole" or value.is_integer()
    is_low = argument.lowest is not None and value < argument.lowest
    is_high = argument.highest is not None and value > argument.highest
    return None if math.isnan(value) or is_low or is_high or not is_whole else value


def count_of(text: str) -> int | None:
    """Return the whole number of at least 0 in `text`, or None."""
    return int(text) if text.isdecimal() else None


def range_in_words(argument: ArgumentInfo) -> str:
    """Return the range of an argument in words."""
    words = ["a whole number" if argument.kind == "whole" else "a number"]
    if argument.lowest is not None:
        words.append(f"of at least {argument.lowest:g}")
    if argument.highest is not None:
        words.append(f"{'and' if len(words) > 1 else 'of'} at most {argument.highest:g}")
    return " ".join(words)
