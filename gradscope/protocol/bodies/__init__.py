"""Converts message bodies to columns and tables, and back. Imports NumPy; the rest of `protocol` does not."""

from gradscope.protocol.bodies.blocks import pack_block, unpack_block
from gradscope.protocol.bodies.histograms import PackBins
from gradscope.protocol.bodies.ranks import merge_steps
from gradscope.protocol.bodies.resources import pack_memory, pack_times, unpack_memory, unpack_times

__all__ = [
    "PackBins",
    "merge_steps",
    "pack_block",
    "pack_memory",
    "pack_times",
    "unpack_block",
    "unpack_memory",
    "unpack_times",
]
