"""`DetailPage` shows one layer: its numbers over the steps, and its statistics in the newest step."""
# ruff: noqa: RUF001 - the signs are meant

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
from textual.app import ComposeResult
from textual.containers import Container

from gradscope.protocol import InterventionState
from gradscope_tui.keys import bindings_of
from gradscope_tui.store.measure import Frame
from gradscope_tui.store.run import RunStore
from gradscope_tui.view.cell import Cell, Line, printable
from gradscope_tui.view.detail import (
    about_lines,
    focus_in_words,
    kind_in_words,
    kinds_of,
    stats_lines,
)
from gradscope_tui.view.intervention_text import intervention_in_words, start_in_words
from gradscope_tui.view.plots.heat_strip import exponent_lines
from gradscope_tui.view.plots.trend import trend_lines
from gradscope_tui.widgets.cell_widget import CellLines, Drawing

__all__ = ["DetailPage"]

_PLOTS = (
    ("grad_norm", "gradient norm ‖∇out‖"),
    ("out_std", "activation σ"),
    ("update_ratio", "update Δw/w"),
    ("param_grad_norm", "gradient norm ‖∇w‖"),
)
_PLOT_COUNT = 3
_PLOTTED = 600
_WIDE = 100
_LOW = 40
_FIRST_KIND = "grad"

_Shown: TypeAlias = tuple[RunStore, Frame, Sequence[InterventionState]]


class DetailPage(Container, can_focus=True):
    """Shows the layer named `layer_name`.

    On a wide screen, the exponents of one kind of tensor are shown next to the curves. On a narrow screen,
    they replace the curves. Focus steps add points to the curves; `refusal` says why there are none.
    """

    BINDINGS = bindings_of("detail")

    layer_name: str | None = None
    refusal: str = ""
    _shown: _Shown | None = None
    _kind: str = _FIRST_KIND
    _is_on_exponents: bool = False

    def compose(self) -> ComposeResult:
        """Create the plots and tables."""
        yield CellLines(id="about")
        with Container(classes="plots"):
            for _ in range(_PLOT_COUNT):
                yield Drawing(classes="curve")
            yield Drawing(id="exponents")
        yield CellLines(id="stats")

    def show(self, store: RunStore, frame: Frame, states: Sequence[InterventionState]) -> None:
        """Show the layer with the numbers of the step that the screen shows."""
        node = None if self.layer_name is None else frame.tree.find(self.layer_name)
        if node is None:
            return
        self._shown = store, frame, states
        self._arrange_plots()
        here = [state for state in states if frame.tree.layers[node].name in state.layers]
        self.query_one("#about", CellLines).show(*self._about_lines(store, frame, node, here))
        stats = stats_lines(frame.block, node, self.size.width - 2)
        self.query_one("#stats", CellLines).show(*stats)
        self._show_curves(store, frame, node, states)
        self._show_exponents(store, frame, node)

    def action_exponents(self) -> None:
        """Switch between the curves and the exponents."""
        self._is_on_exponents = not self._is_on_exponents
        self._show_again()

    def action_kind(self, by: int) -> None:
        """Select another kind of tensor."""
        kinds = self._kinds_of_layer()
        if kinds:
            place = kinds.index(self._kind) if self._kind in kinds else 0
            self._kind = kinds[(place + by) % len(kinds)]
            self._show_again()

    def _show_again(self) -> None:
        if self._shown is not None:
            self.show(*self._shown)

    def _kinds_of_layer(self) -> list[str]:
        if self._shown is None or self.layer_name is None:
            return []
        _, frame, _ = self._shown
        node = frame.tree.find(self.layer_name)
        return [] if node is None else kinds_of(frame.block, node)

    def _show_exponents(self, store: RunStore, frame: Frame, node: int) -> None:
        """Draw the exponents of the selected kind, or of the first kind if the layer lacks that one."""
        strip = self.query_one("#exponents", Drawing)
        if not strip.display:
            return
        kinds = self._kinds_of_layer()
        kind = self._kind if self._kind in kinds or not kinds else kinds[0]
        shares = None
        if store.histograms.is_measured:
            shares = store.histograms.shares(node, kind, _PLOTTED, frame.measured.step)
        strip.show_drawing(partial(exponent_lines, kind_in_words(kind), shares))

    def _show_curves(
        self, store: RunStore, frame: Frame, node: int, states: Sequence[InterventionState]
    ) -> None:
        """Draw the curves. Curves without data come last and are marked as not measured."""
        until = frame.measured.step
        is_newest = store.newest is not None and store.newest.step == until
        steps = store.ring.steps(_PLOTTED, until)
        changes = [state.active_since for state in states if state.active_since is not None]
        curves = []
        for name, title in _PLOTS:
            series = store.ring.series(name, node, _PLOTTED, until)
            joined = store.focus_steps.joined(name, node, steps, series, None if is_newest else until)
            curves.append((title, *joined))
        curves.sort(key=lambda curve: not np.isfinite(curve[2]).any())  # stable: the known ones first
        for plot, curve in zip(self.query(".curve").results(Drawing), curves, strict=False):
            plot.show_drawing(partial(trend_lines, *curve, changes))

    def on_resize(self) -> None:
        """Arrange the plots for the new size."""
        self._arrange_plots()

    def _arrange_plots(self) -> None:
        """Place the plots side by side on a wide screen; otherwise show fewer plots."""
        is_wide = self.size.width >= _WIDE
        is_on = self._is_on_exponents
        is_beside = is_wide and self._shown is not None and self._shown[0].histograms.is_measured
        self.query_one(".plots").styles.layout = "horizontal" if is_wide else "vertical"
        room = _PLOT_COUNT - is_beside if is_wide else max(1, (self.size.height - 9) // 5)
        for place, plot in enumerate(self.query(".curve")):
            plot.display = place < room and not is_on
        self.query_one("#exponents").display = is_on or is_beside
        self.query_one("#stats").display = not (is_on and self.size.height < _LOW)

    def _about_lines(
        self, store: RunStore, frame: Frame, node: int, here: Sequence[InterventionState]
    ) -> list[Line]:
        layer = frame.tree.layers[node]
        name = printable(layer.name) or frame.tree.label[node]
        title = [Cell(name, "container"), Cell(f"  {printable(layer.type)}", "dim")]
        every = store.focus_steps.every(node)
        if every:
            title.append(Cell(f"   {focus_in_words(every)}", "good"))
        elif self.refusal:
            title.append(Cell(f"   no focus: {printable(self.refusal)}", "dim"))
        active = [
            (Cell(f"◆ {intervention_in_words(each)}, {start_in_words(each)}", "active"),)
            for each in here
        ]
        parameters = about_lines(layer, self.size.width - 2)
        most = 3 if self.size.height < 24 else 6
        if len(parameters) > most:
            parameters = [
                *parameters[: most - 1],
                (Cell(f"and {len(parameters) - most + 1} more", "dim"),),
            ]
        return [tuple(title), *active, *parameters, ()]
