"""The captured tensors of a layer as pictures, with statistics per channel."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gradscope_tui.view.cell import printable

if TYPE_CHECKING:
    from gradscope.client import CapturedArray

__all__ = ["captured_text", "title_of_captured"]

_HEIGHT = 14
_CHANNELS = 6


def captured_text(found: "Sequence[CapturedArray]", width: int) -> str:
    """Return the pictures as text."""
    return "\n\n".join("\n".join(_lines(each, width)) for each in found)


def title_of_captured(captured: "CapturedArray") -> str:
    """Return what the tensor is: kind, layer, step, shape and dtype."""
    shape = " x ".join(map(str, captured.array.shape)) or "scalar"
    name = printable(".".join(part for part in (captured.layer, captured.name) if part)) or "the model"
    return f"{captured.what} of {name}, step {captured.step}: {shape}, {printable(captured.dtype)}"


def _lines(captured: "CapturedArray", width: int) -> list[str]:
    from gradscope.client.tensor_art import picture_lines  # noqa: PLC0415 - zmq loads after the first paint

    lines = [title_of_captured(captured)]
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
