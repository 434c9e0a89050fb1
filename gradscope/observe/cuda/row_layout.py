"""The memory layout shared by host and kernels: lines (rows on the device), and items (what to read)."""

from typing import Final

from gradscope.columns import COLUMN_NAMES

__all__ = ["BINS_AT", "ITEM_WORDS", "LINES", "LINE_COLUMNS"]

LINE_COLUMNS: Final = (*(name for name in COLUMN_NAMES if name != "calls"), "calls")
"""The columns of a line, as float64; at full detail int64 bins follow from BINS_AT."""

BINS_AT: Final = 16
"""The index of the first bin in a line, in words of 8 bytes: after two cache lines of columns."""

LINES: Final = 4
"""The most lines into which one reduction is merged."""

ITEM_WORDS: Final = 5 + LINES
"""Words (int64) of an item: address, address of the earlier values, elements, repeats of each, 1 for the first item
of a tensor, and the addresses of its lines or 0."""
