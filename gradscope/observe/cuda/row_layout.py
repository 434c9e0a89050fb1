"""What host and kernels agree on: the lines that are written, and the items that tell what to read."""

from typing import Final

from gradscope.columns import COLUMN_NAMES

__all__ = ["BINS_AT", "ITEM_WORDS", "LINES", "LINE_COLUMNS"]

LINE_COLUMNS: Final = (*(name for name in COLUMN_NAMES if name != "calls"), "calls")
"""A line is a row of the buffer: these columns as float64, at full detail int64 bins from BINS_AT on."""

BINS_AT: Final = 16
"""Where a line's bins begin, in words of 8 bytes: behind one cache line of columns."""

LINES: Final = 4
"""Lines that one look is merged into, at most."""

ITEM_WORDS: Final = 5 + LINES
"""An item, in int64: address, address of what it was before, elements, how often each counts, 1 where a
tensor begins, and the addresses of its lines, or 0."""
