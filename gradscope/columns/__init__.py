"""The schema of the statistics: its columns, how they merge, what is derived from them."""

from gradscope.columns.block import Block, merge_block, stats_of_row
from gradscope.columns.derived import update_ratio
from gradscope.columns.schema import (
    COLUMN_NAMES,
    COLUMNS,
    CORE_COLUMNS,
    KINDS,
    Column,
    Flags,
    Merge,
)
from gradscope.columns.stats import Stats, merge_stats
from gradscope.columns.table import LayerRows, Table

__all__ = [
    "COLUMNS",
    "COLUMN_NAMES",
    "CORE_COLUMNS",
    "KINDS",
    "Block",
    "Column",
    "Flags",
    "LayerRows",
    "Merge",
    "Stats",
    "Table",
    "merge_block",
    "merge_stats",
    "stats_of_row",
    "update_ratio",
]
