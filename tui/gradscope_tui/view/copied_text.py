"""A row of the screen, and the verdict, as text to paste somewhere else."""

from collections.abc import Iterable

from gradscope.findings import Verdict
from gradscope.protocol import InterventionState
from gradscope_tui.store.measure import QUANTITIES, Frame
from gradscope_tui.view.cell import text_of
from gradscope_tui.view.intervention_text import intervention_line
from gradscope_tui.view.table import number_cell

__all__ = ["layer_text", "verdict_text"]


def layer_text(run: str, frame: Frame, name: str, states: Iterable[InterventionState]) -> str:
    """Return a layer in one line: run, step, name, type, its numbers with their signs, and interventions."""
    node = frame.tree.find(name)
    if node is None:
        return ""
    layer = frame.tree.layers[node]
    numbers = ", ".join(
        f"{quantity.title} {' '.join(text_of(number_cell(frame, quantity.name, node)).split())}"
        for quantity in QUANTITIES
    )
    here = "".join(f"; {intervention_line(state)}" for state in states if name in state.layers)
    step = f"step {frame.measured.step:,}" if frame.measured.step >= 0 else "no step yet"
    return f"{run}, {step}: {layer.name or frame.tree.label[node]} ({layer.type}): {numbers}{here}"


def verdict_text(verdict: Verdict) -> str:
    """Return the verdict with all findings, as `gradscope diagnose` prints it."""
    return "\n".join([f"{verdict.run}: {verdict.headline}", *verdict.lines()])
