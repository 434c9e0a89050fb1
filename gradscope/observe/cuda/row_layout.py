"""The memory layout shared by host and kernels: lines (rows on the device), and items (what to read)."""

from typing import Final

from gradscope.columns import COLUMN_NAMES

__all__ = ["BINS_AT", "ITEM_WORDS", "LINES", "LINE_COLUMNS"]

LINE_COLUMNS: Final = (*(name for name in COLUMN_NAMES if name != "calls"), "calls")
"""The columns of a line, as float64; at full detail int64 bins follow from BINS_AT."""

_CACHE_LINE_WORDS: Final = 8

BINS_AT: Final = -(-len(LINE_COLUMNS) // _CACHE_LINE_WORDS) * _CACHE_LINE_WORDS
"""The index of the first bin in a line, in words of 8 bytes: the bins begin a cache line after the columns."""

LINES: Final = 4
"""The maximum number of lines that one reduction is merged into."""

ITEM_WORDS: Final = 5 + LINES
"""Words (int64) of an item: address, address of the earlier values, number of elements, repeats of each element,
1 for the first item of a tensor else 0, and the addresses of its lines or 0."""
