"""The columns of the statistics: their schema, merging, and derived quantities."""

from gradscope.columns.block import Block, Digests, merge_block, stats_of_row
from gradscope.columns.derived import derive_from, update_ratio
from gradscope.columns.histogram import (
    BINADES,
    HISTOGRAM_BINS,
    LEAST_EXPONENT,
    Histograms,
    of_both_signs,
)
from gradscope.columns.rank_assembly import RankAssembly
from gradscope.columns.ranks import merge_ranks
from gradscope.columns.resources import MemoryRow, MemoryTable, TimeRow, TimesTable, balance_of
from gradscope.columns.schema import (
    BASIC_KINDS,
    COLUMN_NAMES,
    COLUMNS,
    CORE_COLUMNS,
    INPUT_KIND,
    KINDS,
    Column,
    Flags,
    Merge,
    basic_kind,
)
from gradscope.columns.stats import Stats, merge_stats
from gradscope.columns.table import LayerRows, Table
from gradscope.columns.units import bytes_in_words, seconds_in_words

__all__ = [
    "BASIC_KINDS",
    "BINADES",
    "COLUMNS",
    "COLUMN_NAMES",
    "CORE_COLUMNS",
    "HISTOGRAM_BINS",
    "INPUT_KIND",
    "KINDS",
    "LEAST_EXPONENT",
    "Block",
    "Column",
    "Digests",
    "Flags",
    "Histograms",
    "LayerRows",
    "MemoryRow",
    "MemoryTable",
    "Merge",
    "RankAssembly",
    "Stats",
    "Table",
    "TimeRow",
    "TimesTable",
    "balance_of",
    "basic_kind",
    "bytes_in_words",
    "derive_from",
    "merge_block",
    "merge_ranks",
    "merge_stats",
    "of_both_signs",
    "seconds_in_words",
    "stats_of_row",
    "update_ratio",
]
