"""The list of interventions: action, layers, state, schedule, end and author.

Columns are as wide as their content. On a narrow screen they shrink in the order of `_GIVES_WAY`.
"""

from collections.abc import Sequence

from rich.cells import cell_len

from gradscope.protocol import InterventionState, schedule_in_words
from gradscope_tui.view.cell import Cell, Role, fit, printable
from gradscope_tui.view.intervention_text import in_force, layers_in_words, what

__all__ = ["in_columns"]

_TITLES = ("action", "layers", "since", "schedule, end", "set by")
_LEAST = (20, 10, 10, 8, 0)
_GIVES_WAY = (4, 1, 3, 0, 2)
"""The indices of the columns; the first one shrinks first."""

_GAP = 2


def in_columns(
    states: Sequence[InterventionState], step: int | None, width: int
) -> tuple[tuple[Cell, ...], list[tuple[Cell, ...]]]:
    """Return the column titles, and a line for each intervention."""
    texts = [_texts(state, step) for state in states]
    widths = _widths(texts, width)
    header = "".join(fit(title, each) for title, each in zip(_TITLES, widths, strict=True))
    return (Cell(" " + header, "header"),), [
        _row(state, row, widths) for state, row in zip(states, texts, strict=True)
    ]


def _texts(state: InterventionState, step: int | None) -> tuple[str, ...]:
    ends = ", ".join(words for words in (schedule_in_words(state.schedule), state.end) if words)
    since = in_force(state, step).removeprefix("active since ")
    return what(state), layers_in_words(state.layers), since, ends, state.set_by


def _widths(texts: Sequence[tuple[str, ...]], width: int) -> list[int]:
    """Return the widths of the columns with the gaps after them; their sum is at most `width`."""
    widths = [
        max(cell_len(printable(text)) for text in column) + _GAP
        for column in zip(_TITLES, *texts, strict=True)
    ]
    for place in _GIVES_WAY:
        least = min(widths[place], _LEAST[place])
        widths[place] = max(least, widths[place] - max(0, sum(widths) - width))
    if widths[-1] < cell_len(_TITLES[-1]):
        widths[-1] = 0
    return widths


def _row(state: InterventionState, texts: Sequence[str], widths: Sequence[int]) -> tuple[Cell, ...]:
    first: Role = "pending" if state.active_since is None else "active"
    roles: tuple[Role, ...] = (first, "normal", "normal", "dim", "dim")
    return tuple(
        Cell(fit(text, max(0, width - _GAP)) + " " * min(_GAP, width), role)
        for text, width, role in zip(texts, widths, roles, strict=True)
    )
