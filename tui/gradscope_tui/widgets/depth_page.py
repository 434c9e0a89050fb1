"""`DepthPage` shows the model from its first layer to its last: a curve for each quantity, or a map over steps."""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from textual import events
from textual.app import ComposeResult
from textual.containers import Container, Vertical
from textual.message import Message

from gradscope.findings.text import SIGNS
from gradscope.protocol import InterventionState
from gradscope_tui.keys import bindings_of
from gradscope_tui.store.layers import LayerTree
from gradscope_tui.store.measure import QUANTITIES, Frame
from gradscope_tui.store.run import RunStore
from gradscope_tui.view.cell import Cell, Line, Role, printable
from gradscope_tui.view.plots.chain import chain_lines, mark_line
from gradscope_tui.view.plots.layer_map import LayerMap, map_lines
from gradscope_tui.view.plots.trend import AXIS
from gradscope_tui.view.table import number_cell
from gradscope_tui.widgets.cell_widget import CellLines, Drawing

__all__ = ["DepthPage"]

_PLOTS = ("grad_norm", "out_std", "update_ratio")
_LEAST_PLOT = 4
_TITLES = {quantity.name: quantity.meaning for quantity in QUANTITIES}
_SIGN_ROLES: dict[str, Role] = {"error": "above3", "warning": "warning"}


class DepthPage(Container, can_focus=True):
    """Shows the layers without layers below them, in the order of the model. `layer_name` is the chosen one."""

    BINDINGS = bindings_of("depth")

    class Chosen(Message):
        """The layer was chosen with enter or a double click."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self.layer_name: str | None = None
        self._shown: tuple[RunStore, Frame, Sequence[InterventionState]] | None = None
        self._leaves: tuple[int, ...] = ()
        self._names: tuple[str, ...] = ()
        self._tree: LayerTree | None = None
        self._is_map = False
        self._quantity = 1

    def compose(self) -> ComposeResult:
        """Create the curves and the map, of which one is shown."""
        with Vertical(classes="chain"):
            for _ in _PLOTS:
                yield Drawing(classes="curve")
            yield CellLines(id="depth-marks")
        yield Drawing(id="layer-map")
        yield CellLines(id="depth-layer")

    def show(self, store: RunStore, frame: Frame, states: Sequence[InterventionState]) -> None:
        """Show the numbers of the step that the screen shows."""
        self._shown = store, frame, states
        if frame.tree is not self._tree:
            self._tree = frame.tree
            self._leaves = tuple(n for n in frame.tree.order if not frame.tree.is_container(n))
            tree = frame.tree
            self._names = tuple(printable(tree.layers[n].name) or tree.label[n] for n in self._leaves)
        chosen = self._place
        self.query_one(".chain").display = not self._is_map
        layer_map = self.query_one("#layer-map", Drawing)
        layer_map.display = self._is_map
        if self._is_map:
            layer_map.show_drawing(partial(map_lines, self._map(store, frame), chosen))
        else:
            self._show_chain(store, frame, states, chosen)
        self.query_one("#depth-layer", CellLines).show(*self._layer_lines(frame, chosen))

    def _show_chain(
        self, store: RunStore, frame: Frame, states: Sequence[InterventionState], chosen: int | None
    ) -> None:
        room = max(1, (self.size.height - 3) // _LEAST_PLOT)
        leaves = list(self._leaves)
        plots = list(self.query(".curve").results(Drawing))
        for place, (plot, name) in enumerate(zip(plots, _PLOTS, strict=True)):
            plot.display = place < room
            nonfinite = (frame.measured.nan[name] + frame.measured.inf[name])[leaves] > 0
            values = np.where(nonfinite, np.inf, frame.measured.values[name][leaves])
            plot.show_drawing(partial(chain_lines, _TITLES[name], self._names, values, chosen))
        marks = self._marks(store, frame, states)
        line = mark_line(len(leaves), marks, chosen, self.size.width - 1)
        self.query_one("#depth-marks", CellLines).show(line)

    def _marks(
        self, store: RunStore, frame: Frame, states: Sequence[InterventionState]
    ) -> Mapping[int, tuple[str, Role]]:
        """Return the signs of interventions and findings, by place; an error covers what is at its place."""
        names = {frame.tree.layers[node].name: place for place, node in enumerate(self._leaves)}
        marks: dict[int, tuple[str, Role]] = {}
        for state in states:
            marks |= {names[layer]: ("◆", "active") for layer in state.layers if layer in names}
        for severity, role in reversed(_SIGN_ROLES.items()):
            for finding in store.verdict.every():
                if finding.severity == severity:
                    at = (names[layer] for layer in finding.layers if layer in names)
                    marks |= dict.fromkeys(at, (SIGNS[finding.severity], role))
        return marks

    def _map(self, store: RunStore, frame: Frame) -> LayerMap:
        quantity, leaves = QUANTITIES[self._quantity], list(self._leaves)
        until, most = frame.measured.step, max(1, self.size.width)
        values = store.ring.matrix(quantity.name, most, until)[:, leaves]
        return LayerMap(quantity.meaning, self._names, store.ring.steps(most, until), values)

    def _layer_lines(self, frame: Frame, chosen: int | None) -> list[Line]:
        if chosen is None:
            return [(Cell("no layers", "dim"),)]
        node = self._leaves[chosen]
        name = self._names[chosen]
        place = f"  layer {chosen + 1:,} of {len(self._leaves):,}"
        numbers: list[Cell] = []
        for quantity in QUANTITIES:
            numbers += [Cell(f"{quantity.title} ", "dim"), *number_cell(frame, quantity.name, node)]
        return [
            (
                Cell(name, "container"),
                Cell(f"  {printable(frame.tree.layers[node].type)}", "dim"),
                Cell(place, "dim"),
            ),
            tuple(numbers),
        ]

    @property
    def _place(self) -> int | None:
        """The place of the chosen layer; of the first layer inside it, if it is a container."""
        if self._tree is None or not self._leaves:
            return None
        node = None if self.layer_name is None else self._tree.find(self.layer_name)
        first = 0 if node is None else self._tree.place[node]
        return next((i for i, n in enumerate(self._leaves) if self._tree.place[n] >= first), 0)

    def _choose(self, place: int) -> None:
        if self._tree is not None and self._leaves:
            place = max(0, min(place, len(self._leaves) - 1))
            self.layer_name = self._tree.layers[self._leaves[place]].name
            self._show_again()

    def _show_again(self) -> None:
        if self._shown is not None:
            self.show(*self._shown)

    @property
    def _per_line(self) -> int:
        """How many layers a line of the map has."""
        if not self._is_map or self._shown is None:
            return 1
        height = self.query_one("#layer-map").size.height
        return self._map(*self._shown[:2]).layers_per_line(height)

    def action_move(self, distance: int) -> None:
        """Choose another layer; in the map, that of another line."""
        self._choose((self._place or 0) + distance * self._per_line)

    def action_page(self, distance: int) -> None:
        """Go a tenth of the model forward or back."""
        self._choose((self._place or 0) + distance * max(1, len(self._leaves) // 10))

    def action_jump(self, place: int) -> None:
        """Choose the first or the last layer."""
        self._choose(place if place >= 0 else len(self._leaves) - 1)

    def action_map(self) -> None:
        """Switch between the curves and the map."""
        self._is_map = not self._is_map
        self._show_again()

    def action_quantity(self, distance: int) -> None:
        """Show another quantity in the map."""
        self._is_map = True
        self._quantity = (self._quantity + distance) % len(QUANTITIES)
        self._show_again()

    def action_choose(self) -> None:
        """Choose the layer."""
        if self._place is not None:
            self._choose(self._place)
            self.post_message(self.Chosen())

    def on_click(self, event: events.Click) -> None:
        """Choose the layer of the clicked column or line; a double click shows it in detail."""
        if self._is_map:
            self._choose((event.y - 1) * self._per_line)
        else:
            columns = max(1, self.size.width - AXIS - 3)
            self._choose(round((event.x - 1 - AXIS) / columns * (len(self._leaves) - 1)))
        if event.chain == 2:
            self.action_choose()

    def on_resize(self) -> None:
        """Redraw for the new size."""
        self.call_after_refresh(self._show_again)
