"""`CaptureScreen` shows the captured tensors of a layer as pictures, with statistics per channel."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from gradscope_tui.view.cell import printable

if TYPE_CHECKING:
    from gradscope.client import CapturedArray

__all__ = ["CaptureScreen", "captured_text"]

_HEIGHT = 14
_CHANNELS = 6
_WIDEST = 120
_FRAME = 7
"""The width of the card's border, padding and scroll bar."""


class CaptureScreen(ModalScreen[str | None]):
    """Shows captured tensors. Returns the kind of tensor to capture next, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("a", "again('activation')", show=False),
        Binding("g", "again('gradient')", show=False),
        Binding("w", "again('param_grad')", show=False),
        Binding("escape,q,v", "close", show=False),
    ]

    def __init__(self, found: "Sequence[CapturedArray]") -> None:
        super().__init__()
        self._found = tuple(found)

    def compose(self) -> ComposeResult:
        """Create the card."""
        card = VerticalScroll(classes="card")
        card.border_title = "captured"
        card.border_subtitle = "a activation · g gradient · w weight gradient · esc closes"
        with card:
            width = max(20, min(self.app.size.width, _WIDEST) - _FRAME)
            yield Static(captured_text(self._found, width), markup=False)

    def action_again(self, what: str) -> None:
        """Close, and capture another kind of tensor."""
        self.dismiss(what)

    def action_close(self) -> None:
        """Close."""
        self.dismiss(None)


def captured_text(found: "Sequence[CapturedArray]", width: int) -> str:
    """Return the pictures as text."""
    return "\n\n".join("\n".join(_lines(each, width)) for each in found)


def _lines(captured: "CapturedArray", width: int) -> list[str]:
    from gradscope.client.tensor_art import picture_lines  # noqa: PLC0415 - zmq loads after the first paint

    shape = " x ".join(map(str, captured.array.shape)) or "scalar"
    name = printable(".".join(part for part in (captured.layer, captured.name) if part)) or "the model"
    lines = [f"{captured.what} of {name}, step {captured.step}: {shape}, {printable(captured.dtype)}"]
    if captured.note:
        lines.append(printable(captured.note))
    if not captured.array.size:
        return lines
    lines += picture_lines(captured.array, width, _HEIGHT, is_weight=captured.what == "param_grad")
    channels = captured.channels()
    order = np.argsort(-np.nan_to_num(channels.absmax, nan=np.inf))[:_CHANNELS].tolist()
    lines.append(f"{'channel':>8}{'mean':>11}{'std':>11}{'|max|':>11}{'zero':>7}")
    lines += [
        f"{i:>8}{channels.mean[i]:>11.3g}{channels.std[i]:>11.3g}{channels.absmax[i]:>11.3g}"
        f"{channels.zero_fraction[i]:>7.0%}"
        for i in order
    ]
    count, axis = len(channels.mean), channels.axis
    lines.append(f"{channels.dead} of {count} channels along dimension {axis} are all zero")
    return lines
