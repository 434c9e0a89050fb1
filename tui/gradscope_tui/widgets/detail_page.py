"""`DetailPage`: one layer, its numbers over the steps and in the newest one."""
# ruff: noqa: RUF001 - the signs are meant

from collections.abc import Sequence

import numpy as np
from textual.app import ComposeResult
from textual.containers import Container
from textual.strip import Strip

from gradscope.protocol import InterventionState
from gradscope_tui.store import Frame, RunStore
from gradscope_tui.view.cell import Cell, printable
from gradscope_tui.view.detail import about_lines, stats_lines
from gradscope_tui.view.words import in_force, what
from gradscope_tui.widgets.cell_strip import CellWidget
from gradscope_tui.widgets.trend_plot import TrendPlot

__all__ = ["DetailPage"]

_PLOTS = (
    ("grad_norm", "gradient norm ‖∇out‖"),
    ("out_std", "activation σ"),
    ("update_ratio", "update Δw/w"),
    ("param_grad_norm", "gradient norm ‖∇w‖"),
)
_PLOT_COUNT = 3
_PLOTTED = 600


class NumberTable(CellWidget):
    """Lines of cells, as high as they need."""

    _lines: Sequence[tuple[Cell, ...]] = ()

    def show(self, lines: Sequence[tuple[Cell, ...]]) -> None:
        """Draw these lines."""
        if lines != self._lines:
            is_as_high = len(lines) == len(self._lines)
            self._lines = lines
            self.refresh(layout=not is_as_high)

    def get_content_height(self, *_: object) -> int:
        """Return how many lines there are."""
        return len(self._lines)

    def render_line(self, y: int) -> Strip:
        """Return a line."""
        cells = self._lines[y] if y < len(self._lines) else ()
        return self.strip_of(cells, self.size.width, self.rich_style)

    @property
    def text(self) -> str:
        """What it says."""
        return "\n".join("".join(cell.text for cell in line) for line in self._lines)


class DetailPage(Container, can_focus=True):
    """Shows the layer named `layer_name`. Where nothing was measured it says so."""

    layer_name: str | None = None

    def compose(self) -> ComposeResult:
        """Lay out the page."""
        yield NumberTable(classes="title", id="about")
        with Container(classes="plots"):
            for _ in range(_PLOT_COUNT):
                yield TrendPlot()
        yield NumberTable(id="stats")

    def show(self, store: RunStore, frame: Frame, states: Sequence[InterventionState]) -> None:
        """Draw the layer as of the frame's step."""
        node = None if self.layer_name is None else frame.tree.find(self.layer_name)
        if node is None:
            return
        here = [state for state in states if frame.tree.layers[node].name in state.layers]
        self.query_one("#about", NumberTable).show(self._about(frame, node, here))
        self.query_one("#stats", NumberTable).show(stats_lines(frame.block, node, self.size.width - 2))
        self._plot(store, frame.measured.step, node, states)

    def _plot(
        self, store: RunStore, until: int, node: int, states: Sequence[InterventionState]
    ) -> None:
        """Draw the curves that there are; a layer without any has the first ones, which say so."""
        steps = store.ring.steps(_PLOTTED, until)
        changes = [state.active_since for state in states if state.active_since is not None]
        curves = [(title, store.ring.series(name, node, _PLOTTED, until)) for name, title in _PLOTS]
        curves.sort(key=lambda curve: not np.isfinite(curve[1]).any())  # stable: the known ones first
        for plot, (title, series) in zip(self.query(TrendPlot), curves, strict=False):
            plot.show(title, steps, series, changes)

    def on_resize(self) -> None:
        """Put the plots beside one another where there is room, else show fewer."""
        is_wide = self.size.width >= 100
        self.query_one(".plots").styles.layout = "horizontal" if is_wide else "vertical"
        room = 3 if is_wide else max(1, (self.size.height - 9) // 5)
        for place, plot in enumerate(self.query(TrendPlot)):
            plot.display = place < room

    def _about(
        self, frame: Frame, node: int, here: Sequence[InterventionState]
    ) -> list[tuple[Cell, ...]]:
        layer = frame.tree.layers[node]
        name = printable(layer.name) or frame.tree.label[node]
        title = [Cell(name, "container"), Cell(f"  {printable(layer.type)}", "dim")]
        title += [Cell(f"   ◆ {what(s)}, {in_force(s)}", "active") for s in here]
        parameters = about_lines(layer, self.size.width - 2)
        most = 3 if self.size.height < 24 else 6
        if len(parameters) > most:
            parameters = [
                *parameters[: most - 1],
                (Cell(f"and {len(parameters) - most + 1} more", "dim"),),
            ]
        return [tuple(title), *parameters, ()]
