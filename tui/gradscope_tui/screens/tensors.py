"""`TensorScreen` captures the tensors of a layer and shows them: as a summary, and element by element."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from gradscope.errors import GradscopeError
from gradscope_tui.screens.card import wide_text_width
from gradscope_tui.source import NO_LINK, Source
from gradscope_tui.view.capture_text import captured_text, title_of_captured
from gradscope_tui.view.cell import Cell, Line, fit
from gradscope_tui.view.tensor_map import (
    Plane,
    element_text,
    map_lines,
    plane_of,
    plane_text,
    scale_of,
)
from gradscope_tui.widgets.cell_widget import CellLines, Drawing

if TYPE_CHECKING:
    from gradscope.client import CapturedArray

__all__ = ["TensorScreen"]

_SUMMARY_HINT = "m elements · a activation · g gradient · w weight gradient · esc closes"
_MAP_HINT = "arrows · [ ] slice · d dim · x other dims · tab next tensor · m summary"


class TensorScreen(ModalScreen[None]):
    """Shows the tensors `what` of a layer from the next step. `waiting` is the text until they are there."""

    AUTO_FOCUS = ""
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,v", "close", show=False),
        *(
            Binding(key, f"capture('{what}')", show=False)
            for key, what in (("a", "activation"), ("g", "gradient"), ("w", "param_grad"))
        ),
        Binding("m,e", "map", show=False),
        Binding("full_stop", "app.step_once", show=False),
        Binding("tab", "next_tensor", show=False),
        Binding("left_square_bracket", "slice(-1)", show=False),
        Binding("right_square_bracket", "slice(1)", show=False),
        Binding("d", "next_dim", show=False),
        Binding("x", "turn", show=False),
        Binding("left,h", "move(0, -1)", show=False),
        Binding("right,l", "move(0, 1)", show=False),
        Binding("up,k", "move(-1, 0)", show=False),
        Binding("down,j", "move(1, 0)", show=False),
        Binding("pageup,ctrl+b", "move(-16, 0)", show=False),
        Binding("pagedown,ctrl+f", "move(16, 0)", show=False),
        Binding("home", "move(0, -1000000000)", show=False),
        Binding("end", "move(0, 1000000000)", show=False),
    ]

    def __init__(self, source: "Source | None", layer: str, what: str, waiting: str) -> None:
        super().__init__(id="capture")
        self._source, self._layer, self._what, self._waiting = source, layer, what, waiting
        self._found: Sequence[CapturedArray] = ()
        self._place = 0
        self._plane: Plane | None = None
        self._scale = 1.0
        self._cursor = (0, 0)
        self._is_map = False

    def compose(self) -> ComposeResult:
        """Create the summary, and the map with its lines."""
        card = Vertical(classes="card")
        card.border_title = "captured"
        with card:
            with VerticalScroll(id="summary"):
                yield Static(self._waiting, markup=False, id="summary-text")
            with Vertical(id="map"):
                yield CellLines(id="map-title")
                yield Drawing(id="elements")
                yield CellLines(id="element")

    def on_mount(self) -> None:
        """Capture the tensors."""
        self._show()
        self.action_capture(self._what)

    def action_close(self) -> None:
        """Close the screen."""
        self.dismiss(None)

    def action_capture(self, what: str) -> None:
        """Capture other tensors of the layer in the next step."""
        self._what = what
        self.run_worker(partial(self._capture, what), thread=True, exclusive=True)

    def _capture(self, what: str) -> None:
        source, app = self._source, self.app
        try:
            if source is None:
                raise GradscopeError(NO_LINK)  # noqa: TRY301 - it is shown as the other errors are
            found = source.capture(self._layer, what)
        except GradscopeError as error:
            app.call_later(self._show_problem, str(error))
        else:
            app.call_later(self._take, found)

    def _show_problem(self, problem: str) -> None:
        if self.is_attached:
            self.app.notify(problem, severity="error", timeout=12.0, markup=False)
            if not self._found:
                self.dismiss(None)

    def _take(self, found: "Sequence[CapturedArray]") -> None:
        self._found, self._place = found, 0
        if self.is_attached:
            self._begin_tensor()

    def _begin_tensor(self) -> None:
        array = self._found[self._place].array if self._found else None
        self._cursor, self._plane = (0, 0), None
        if array is not None and array.size:
            self._plane, self._scale = plane_of(array), scale_of(array)
        self._show()

    def _show(self) -> None:
        is_map = self._is_map and self._plane is not None
        self.query_one("#summary").display = not is_map
        self.query_one("#map").display = is_map
        card = self.query_one(".card")
        card.border_subtitle = _MAP_HINT if is_map else _SUMMARY_HINT
        card.set_class(is_map, "is-map")
        if is_map:
            self._show_map()
        elif self._found:
            text = captured_text(self._found, wide_text_width(self.app.size.width))
            self.query_one("#summary-text", Static).update(text)

    def _show_map(self) -> None:
        plane, captured = self._plane, self._found[self._place]
        if plane is None:
            return
        more = f" (tensor {self._place + 1} of {len(self._found)})" if len(self._found) > 1 else ""
        width = wide_text_width(self.app.size.width)
        titles: list[Line] = [
            (Cell(fit(title_of_captured(captured) + more, width), "title"),),
            (Cell(fit(plane_text(plane), width), "dim"),),
        ]
        self.query_one("#map-title", CellLines).show(*titles)
        draw = partial(map_lines, captured.array, plane, self._scale, self._cursor)
        self.query_one("#elements", Drawing).show_drawing(draw)
        scale = f"   █ is {self._scale:.3g}, the largest of the tensor"
        text = element_text(captured.array, plane, self._cursor) + scale
        self.query_one("#element", CellLines).show((Cell(fit(text, width)),))

    def action_map(self) -> None:
        """Switch between the summary and the elements."""
        self._is_map = not self._is_map
        self._show()

    def action_next_tensor(self) -> None:
        """Show the next tensor of the layer."""
        if self._found:
            self._place = (self._place + 1) % len(self._found)
            self._begin_tensor()

    def action_slice(self, by: int) -> None:
        """Show the next index of the chosen dimension."""
        self._change(lambda plane: plane.moved(by))

    def action_next_dim(self) -> None:
        """Choose the next dimension whose index changes."""
        self._change(Plane.with_next_chosen)

    def action_turn(self) -> None:
        """Show two other dimensions."""
        self._cursor = (0, 0)
        self._change(Plane.turned)

    def _change(self, change: Callable[[Plane], Plane]) -> None:
        if self._plane is not None and self._is_map:
            self._plane = change(self._plane)
            self._show()

    def action_move(self, down: int, right: int) -> None:
        """Move the cursor; in the summary, scroll."""
        if not self._is_map:
            self.query_one("#summary", VerticalScroll).scroll_relative(y=down, animate=False)
        elif self._plane is not None:
            sizes = (self._plane.shape[self._plane.rows], self._plane.shape[self._plane.columns])
            self._cursor = (
                max(0, min(self._cursor[0] + down, sizes[0] - 1)),
                max(0, min(self._cursor[1] + right, sizes[1] - 1)),
            )
            self._show_map()
