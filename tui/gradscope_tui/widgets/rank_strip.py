"""`RankStrip`: the line of the ranks, for a run with several."""

from gradscope.protocol import RankStates
from gradscope_tui.view.rank_strip import rank_cells
from gradscope_tui.widgets.cell_widget import CellLines

__all__ = ["RankStrip"]


class RankStrip(CellLines):
    """Takes no line for a run with one rank."""

    def show_ranks(self, states: RankStates | None, width: int, *, is_roomy: bool) -> None:
        """Show the ranks if there are several and there is room."""
        cells = rank_cells(states, width) if is_roomy else ()
        self.display = bool(cells)
        self.show(*([cells] if cells else []))
