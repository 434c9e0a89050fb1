"""The rows of the Alerts tab, and the whole text of an alert."""

import math
import time

from gradscope_tui.store.journal import Entry
from gradscope_tui.view.cell import Cell, Line, Role, printable
from gradscope_tui.view.columns import TextColumn
from gradscope_tui.view.numbers import scalar

__all__ = ["ALERT_COLUMNS", "alert_row", "alert_text"]

ALERT_COLUMNS = (
    TextColumn("time", 0, 3),
    TextColumn("step", 7, 7),
    TextColumn("rule", 12, 6),
    TextColumn("layer", 20, 4, keep_end=True),
    TextColumn("value", 9, 5),
    TextColumn("threshold", 0, 2),
    TextColumn("finding", 30, 1),
)


def alert_row(entry: Entry) -> Line:
    """Return a cell for each column. What failed outside the rules has no rule and no numbers."""
    alert = entry.alert
    role: Role = "bad" if entry.level == "error" else "warning"
    return (
        Cell(time.strftime("%H:%M:%S", time.localtime(entry.time_s)), "dim"),
        Cell(f"{entry.step:,}", "dim"),
        Cell(alert.rule if alert else entry.code, role),
        Cell((alert.layer if alert else "") or "·"),
        Cell(_number(alert.value) if alert else "·"),
        Cell(_number(alert.threshold) if alert else "·", "dim"),
        Cell(_done(entry) + " ".join(entry.text.split())),
    )


def alert_text(entry: Entry) -> str:
    """Return the whole text of an alert, in lines that are not wrapped."""
    return "\n".join(map(printable, (_done(entry) + entry.text).splitlines()))


def _number(value: float) -> str:
    return scalar(value) if math.isfinite(value) else str(value)


def _done(entry: Entry) -> str:
    """Return the action of the rule; empty if it only reports."""
    action = entry.alert.action if entry.alert else ""
    return f"[{action}] " if action not in ("", "event") else ""
