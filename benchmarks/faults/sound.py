"""All programs without a fault."""

from benchmarks.faults import hugging_face
from benchmarks.faults.program import Program
from benchmarks.faults.sound_dynamics import DYNAMICS
from benchmarks.faults.sound_graph import GRAPH
from benchmarks.faults.sound_wiring import WIRING

__all__ = ["SOUND"]

SOUND: tuple[Program, ...] = (*WIRING, *GRAPH, *DYNAMICS, *hugging_face.SOUND)
