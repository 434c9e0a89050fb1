"""`Cell`: a text and its role. The theme defines the style of each role."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Literal, NamedTuple, TypeAlias

from rich.cells import cell_len, set_cell_size

__all__ = ["Cell", "Line", "Role", "cells_of", "fit", "printable", "text_of"]

Role: TypeAlias = Literal[
    "normal",
    "dim",
    "header",
    "title",
    "container",
    "merged",
    "sampled",
    "above1",
    "above2",
    "above3",
    "below1",
    "below2",
    "below3",
    "bad",
    "spark",
    "active",
    "alarm",
    "pending",
    "marked",
    "good",
    "warning",
    "chosen",
    "key",
]


class Cell(NamedTuple):
    """A text and its role."""

    text: str
    role: Role = "normal"


Line: TypeAlias = tuple[Cell, ...]


def text_of(cells: Iterable[Cell]) -> str:
    """Return the text of a line."""
    return "".join(cell.text for cell in cells)


def cells_of(characters: Iterable[tuple[str, Role]]) -> Iterator[Cell]:
    """Yield a cell for each run of characters with the same role."""
    for role, run in groupby(characters, key=lambda each: each[1]):
        yield Cell("".join(text for text, _ in run), role)


def printable(text: str) -> str:
    """Return text with control characters replaced, because a terminal would execute them."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else "�" for char in text)


def fit(text: str, width: int, *, keep_end: bool = False) -> str:
    """Return `text` in exactly `width` cells; an ellipsis replaces what does not fit."""
    text = printable(text)
    length = len(text) if text.isascii() else cell_len(text)
    if length <= width:
        return text + " " * (width - length)
    if width <= 1:
        return "…"[: max(width, 0)]
    if keep_end:
        while cell_len(text) > width - 1:
            text = text[1:]
        return set_cell_size("…" + text, width)
    return set_cell_size(text, width - 1) + "…"
