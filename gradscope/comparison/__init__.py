"""Where two recorded runs part: the first step, pass and layer, and what may have caused it."""

from gradscope.comparison.diff import Comparison, compare_runs
from gradscope.comparison.sides import Side, open_side

__all__ = ["Comparison", "Side", "compare_runs", "open_side"]
