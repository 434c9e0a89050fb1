"""The rows of the Alerts tab, the whole text of an alert, and the line with the verdict."""

import math
import time

from gradscope.findings import Verdict
from gradscope_tui.store.journal import Entry
from gradscope_tui.view.cell import Cell, Line, Role, fit, printable
from gradscope_tui.view.columns import TextColumn
from gradscope_tui.view.numbers import scalar

__all__ = ["ALERT_COLUMNS", "alert_row", "alert_text", "verdict_cells"]

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
    """Return a cell for each column. Events that are not from rules have no numbers."""
    alert, finding = entry.alert, entry.finding
    layer = alert.layer if alert else ", ".join(finding.layers) if finding else ""
    role: Role = "bad" if entry.level == "error" else "warning"
    return (
        Cell(time.strftime("%H:%M:%S", time.localtime(entry.time_s)), "dim"),
        Cell(f"{entry.step:,}", "dim"),
        Cell(alert.rule if alert else finding.code if finding else entry.code, role),
        Cell(layer or "·"),
        Cell(_number_in_words(alert.value) if alert else "·"),
        Cell(_number_in_words(alert.threshold) if alert else "·", "dim"),
        Cell(_action_taken(entry) + " ".join(entry.text.split())),
    )


def alert_text(entry: Entry) -> str:
    """Return the whole text of an alert with cause and fix, in lines that are not wrapped."""
    lines = (_action_taken(entry) + entry.text).splitlines()
    if entry.finding is not None:
        lines += [f"why:  {entry.finding.cause}", f"next: {entry.finding.fix}"]
    return "\n".join(map(printable, lines))


def verdict_cells(verdict: Verdict, width: int) -> Line:
    """Return what is wrong with the run in exactly `width` cells; nothing without an error or a warning."""
    if not verdict.has_problem:
        return ()
    role: Role = "bad" if verdict.findings[0].severity == "error" else "warning"
    return (Cell(fit(f" {printable(verdict.headline)}", width), role),)


def _number_in_words(value: float) -> str:
    return scalar(value) if math.isfinite(value) else str(value)


def _action_taken(entry: Entry) -> str:
    """Return the action of the rule; empty if it only reports."""
    action = entry.alert.action if entry.alert else ""
    return f"[{action}] " if action not in ("", "event") else ""
