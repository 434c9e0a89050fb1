"""The data behind the screen, taken from messages and kept in NumPy rings. Nothing here uses Textual."""

from gradscope_tui.store.frame import Frame
from gradscope_tui.store.histograms import HistogramRing, Shares
from gradscope_tui.store.journal import Entry, Journal
from gradscope_tui.store.layers import LayerTree, build_tree
from gradscope_tui.store.measure import QUANTITIES, Measured, Quantity, measure
from gradscope_tui.store.ring import StepRing
from gradscope_tui.store.run import RunStore
from gradscope_tui.store.scalars import ScalarStore
from gradscope_tui.store.session import Session

__all__ = [
    "QUANTITIES",
    "Entry",
    "Frame",
    "HistogramRing",
    "Journal",
    "LayerTree",
    "Measured",
    "Quantity",
    "RunStore",
    "ScalarStore",
    "Session",
    "Shares",
    "StepRing",
    "build_tree",
    "measure",
]
