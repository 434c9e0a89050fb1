"""`DetailPage` shows one layer: its numbers over the steps, and its statistics in the newest step."""
# ruff: noqa: RUF001 - the signs are meant

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from textual.app import ComposeResult
from textual.containers import Container

from gradscope.findings import Finding
from gradscope.protocol import InterventionState
from gradscope_tui.keys import bindings_of
from gradscope_tui.store.effects import Effect
from gradscope_tui.store.measure import QUANTITIES, Frame
from gradscope_tui.store.run import RunStore
from gradscope_tui.view.cell import Cell, Line, Role, fit, printable
from gradscope_tui.view.compared import compared_line
from gradscope_tui.view.detail import (
    about_lines,
    focus_in_words,
    kind_in_words,
    kinds_of,
    stats_lines,
)
from gradscope_tui.view.effects import before_after, marks_of
from gradscope_tui.view.findings import evidence_lines
from gradscope_tui.view.intervention_text import intervention_in_words, start_in_words
from gradscope_tui.view.plots.heat_strip import exponent_lines
from gradscope_tui.view.plots.trend import trend_lines
from gradscope_tui.widgets.cell_widget import CellLines, Drawing

__all__ = ["DetailPage", "SidePanel"]

_PLOTS = (
    ("grad_norm", "gradient norm ‖∇out‖"),
    ("out_std", "activation σ"),
    ("update_ratio", "update Δw/w"),
    ("param_grad_norm", "gradient norm ‖∇w‖"),
)
_KINDS = {
    "grad_norm": "grad",
    "out_std": "out",
    "update_ratio": "update",
    "param_grad_norm": "param_grad",
}
"""The kind of tensor of each curve, as the evidence of a finding names it."""

_PLOT_COUNT = 3
_PLOTTED = 600
_WIDE = 100
_LOW = 40
_LEAST_FOR_LOSS, _ROOMY = 15, 22
"""The heights from which on the loss is shown: if something is marked in it, and in any case."""

_SHORT = {quantity.name: quantity.title for quantity in QUANTITIES}
_TOO_EARLY = "its effect is shown after three observed steps"
_FIRST_KIND = "grad"

_Shown: TypeAlias = tuple[RunStore, Frame, Sequence[InterventionState]]


class DetailPage(Container, can_focus=True):
    """Shows the layer named `layer_name`.

    On a wide screen, the exponents of one kind of tensor are shown next to the curves. On a narrow screen,
    they replace the curves. Focus steps add points to the curves; `refusal` says why there are none. `finding` is the
    finding whose evidence is shown: its text, and first the curve that it is about.
    """

    BINDINGS = bindings_of("detail")

    layer_name: str | None = None
    finding: Finding | None = None
    other: tuple[Frame, str] | None = None
    """The frame with which the shown one is compared, and what it is."""

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
        yield Drawing(id="loss")
        yield CellLines(id="stats")

    def show(self, store: RunStore, frame: Frame, states: Sequence[InterventionState]) -> None:
        """Show the layer with the numbers of the step that the screen shows."""
        node = None if self.layer_name is None else frame.tree.find(self.layer_name)
        if node is None:
            return
        self._shown = store, frame, states
        self._arrange_plots()
        here = [state for state in states if frame.tree.layers[node].name in state.layers]
        marks = self._marks(store, frame, node, here)
        self.query_one("#about", CellLines).show(*self._about_lines(store, frame, node, here))
        stats = stats_lines(frame.block, node, self.size.width - 2)
        self.query_one("#stats", CellLines).show(*stats)
        self._show_curves(store, frame, node, marks)
        self._show_loss(store, frame, marks)
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
        self, store: RunStore, frame: Frame, node: int, marks: Mapping[int, tuple[str, Role]]
    ) -> None:
        """Draw the curves. Curves without data come last and are marked as not measured."""
        curves = [(title, *_series(store, frame, node, name)) for name, title in _PLOTS]
        about = self.finding.evidence.get("kind") if self.finding else None
        curves = [
            (f"▲ {title}" if is_about else title, steps, values)
            for (title, steps, values), is_about in sorted(
                zip(curves, (_KINDS[name] == about for name, _ in _PLOTS), strict=True),
                key=lambda each: not each[1],
            )
        ]
        curves.sort(key=lambda curve: not np.isfinite(curve[2]).any())  # stable: the known ones first
        for plot, curve in zip(self.query(".curve").results(Drawing), curves, strict=False):
            plot.show_drawing(partial(trend_lines, *curve, marks))

    def _show_loss(self, store: RunStore, frame: Frame, marks: Mapping[int, tuple[str, Role]]) -> None:
        """Draw the loss below the curves if there is room, or if an intervention or a finding is marked in it."""
        plot = self.query_one("#loss", Drawing)
        name, steps, values = _loss(store, frame)
        room = _LEAST_FOR_LOSS if marks and self.finding is None else _ROOMY
        plot.display = bool(name) and self.size.height >= room and not self._is_on_exponents
        if plot.display:
            is_log = bool((values > 0).all())
            draw = partial(trend_lines, printable(name), steps, values, marks, is_log=is_log)
            plot.show_drawing(draw)

    def _marks(
        self, store: RunStore, frame: Frame, node: int, here: Sequence[InterventionState]
    ) -> dict[int, tuple[str, Role]]:
        """Return the signs of this layer's interventions and findings, by step."""
        name = frame.tree.layers[node].name
        effects = list(store.effects.of(name))
        known = {effect.state.id for effect in effects}
        effects += [
            Effect(state.active_since, state)
            for state in here
            if state.active_since is not None and state.id not in known
        ]
        found = [each for each in store.verdict.every() if name in each.layers]
        return marks_of(effects, found)

    def on_resize(self) -> None:
        """Arrange the plots and fit the texts for the new size, although no new step may arrive."""
        self._arrange_plots()
        self.call_after_refresh(self._show_again)

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
            line
            for place, each in enumerate(here, 1)
            for line in self._intervention_lines(
                store, frame, node, each, place if len(here) > 1 else 0
            )
        ]
        if self.other is not None:
            other, words = self.other
            active.append(compared_line(frame, other, layer.name, words, max(1, self.size.width - 2)))
        if self.finding is not None and layer.name in self.finding.layers:
            active = [*evidence_lines(self.finding, max(1, self.size.width - 2)), *active]
        parameters = about_lines(layer, self.size.width - 2)
        most = 3 if self.size.height < 24 else 6
        if len(parameters) > most:
            parameters = [
                *parameters[: most - 1],
                (Cell(f"and {len(parameters) - most + 1} more", "dim"),),
            ]
        return [tuple(title), *active, *parameters, ()]

    def _intervention_lines(
        self, store: RunStore, frame: Frame, node: int, state: InterventionState, place: int
    ) -> list[Line]:
        """Return an intervention, and what it changed. `place` is its place in the order; 0: it is alone."""
        is_active = state.active_since is not None
        order = f"{place}. " if place else ""
        text = f"{'◆' if is_active else '◇'} {order}{intervention_in_words(state)}, {start_in_words(state)}"
        line: Line = (Cell(text, "active" if is_active else "pending"),)
        if state.active_since is None:
            return [line]
        series = [
            (_SHORT[name], *_series(store, frame, node, name))
            for name in ("grad_norm", "update_ratio", "param_grad_norm", "out_std")
        ]
        changed = before_after(state.active_since, [series[0], _loss(store, frame), *series[1:]])
        words = f"medians before → since: {changed}" if changed else _TOO_EARLY
        return [
            line,
            (Cell(fit(f"  {words}", max(1, self.size.width)), "normal" if changed else "dim"),),
        ]


class SidePanel(DetailPage, can_focus=False):
    """The layer at the cursor of the table, next to it. It does not put the layer into the focus."""


def _until(store: RunStore, frame: Frame) -> int | None:
    """Return the step to which curves are shown: that of a frozen frame; None: to the newest."""
    is_newest = store.newest is None or store.newest.step == frame.measured.step
    return None if is_newest else frame.measured.step


def _series(
    store: RunStore, frame: Frame, node: int, name: str
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Return the steps and values of a quantity, in observed and focus steps."""
    steps = store.ring.steps(_PLOTTED, frame.measured.step)
    values = store.ring.series(name, node, _PLOTTED, frame.measured.step)
    return store.focus_steps.joined(name, node, steps, values, _until(store, frame))


def _loss(store: RunStore, frame: Frame) -> tuple[str, NDArray[np.int64], NDArray[np.float32]]:
    """Return name, steps and values of the loss; an empty name if none is logged."""
    name, until = next(iter(store.scalars.names), ""), _until(store, frame)
    steps, values = store.scalars.series(name, _PLOTTED)
    is_shown = np.full(len(steps), fill_value=True) if until is None else steps <= until
    return name, steps[is_shown], values[is_shown]
