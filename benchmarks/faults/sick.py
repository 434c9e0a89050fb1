"""All programs with a fault."""

from benchmarks.faults import hugging_face
from benchmarks.faults.program import Sick
from benchmarks.faults.sick_dynamics import DYNAMICS
from benchmarks.faults.sick_graph import GRAPH
from benchmarks.faults.sick_numbers import NUMBERS
from benchmarks.faults.sick_steps import STEPS
from benchmarks.faults.sick_wiring import WIRING

__all__ = ["SICK"]

SICK: tuple[Sick, ...] = (*WIRING, *STEPS, *GRAPH, *DYNAMICS, *NUMBERS, *hugging_face.SICK)
