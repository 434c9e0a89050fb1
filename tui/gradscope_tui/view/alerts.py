"""The rows of the Alerts tab, and the bar of a pause."""

import math
import time

from gradscope.protocol import PauseState
from gradscope_tui.store.alerts import AlertEntry
from gradscope_tui.view.cell import Cell, fit, printable
from gradscope_tui.view.numbers import duration, scalar, whole

__all__ = ["alert_header", "alert_row", "pause_cells"]

_WIDE = 110
"""A narrower screen has no columns for the time and the threshold."""


def alert_header(width: int) -> tuple[Cell, ...]:
    """Return the column titles."""
    titles = ("time", "step", "rule", "layer", "value", "threshold")
    found = "".join(
        fit(title, each) for title, each in zip(titles, _widths(width), strict=True) if each
    )
    return (Cell(" " + found + "finding", "header"),)


def alert_row(entry: AlertEntry, width: int) -> tuple[Cell, ...]:
    """Return one line of the list of alerts."""
    info = entry.info
    cells = (
        Cell(time.strftime("%H:%M:%S", time.localtime(entry.time_s)), "dim"),
        Cell(f"{entry.step:,}", "dim"),
        Cell(info.rule, "bad" if entry.is_error else "warning"),
        Cell(info.layer or "·"),
        Cell(_number(info.value)),
        Cell(_number(info.threshold), "dim"),
    )
    return (
        *(
            Cell(fit(cell.text, each - 1, keep_end=cell.text == info.layer) + " ", cell.role)
            for cell, each in zip(cells, _widths(width), strict=True)
            if each
        ),
        Cell(_done(info.action) + printable(entry.text), "normal"),
    )


def _widths(width: int) -> tuple[int, ...]:
    """Return the widths of the columns before the text; 0 for a column that is not shown."""
    return (10, 10, 14, 26, 11, 11) if width >= _WIDE else (0, 9, 13, 20, 10, 0)


def pause_cells(pause: PauseState, left_s: float) -> tuple[Cell, ...]:
    """Return the bar of a pause with its step, the time left and the reason."""
    why = f" · {printable(pause.reason)}" if pause.reason else ""
    left = f"resumes in {duration(left_s)}" if left_s > 0 else "its lease has expired"
    text = f" ❚❚ PAUSED before step {whole(pause.step)} · {left} · P resumes, . one step{why} "
    return (Cell(text, "alarm"),)


def _number(value: float) -> str:
    return scalar(value) if math.isfinite(value) else str(value)


def _done(action: str) -> str:
    """Return the action of the rule; empty if it only reports."""
    return f"[{printable(action)}] " if action not in ("", "event") else ""
