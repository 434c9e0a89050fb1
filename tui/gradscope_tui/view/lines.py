"""The lines around the pages (interventions, tabs, keys), and the rows of log, history and runs."""

import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence

from gradscope.protocol import InterventionState, RunInfo
from gradscope_tui.keys import Key
from gradscope_tui.store import Entry
from gradscope_tui.view.cell import Cell, Role, fit, printable
from gradscope_tui.view.intervention_text import whole_line

__all__ = [
    "LOG_HEADER",
    "PAGES",
    "RUN_HEADER",
    "bar_cells",
    "history_rows",
    "key_cells",
    "log_rows",
    "run_row",
    "tab_cells",
]

PAGES = (
    ("layers", "Layers"),
    ("alerts", "Alerts"),
    ("memory", "Memory"),
    ("interventions", "Interventions"),
    ("log", "Log"),
)


def bar_cells(states: Sequence[InterventionState], width: int) -> tuple[Cell, ...]:
    """Return the bar of the active and pending interventions."""
    active = sum(state.active_since is not None for state in states)
    pending = len(states) - active
    words = [f"{active} active" if active else "", f"{pending} pending" if pending else ""]
    lines = " · ".join(printable(whole_line(state)) for state in states)
    text = f" ◆ {', '.join(w for w in words if w)}   {lines}"
    return (Cell(fit(text, width), "alarm"),)


def tab_cells(
    page: str, counts: dict[str, int], note: str, width: int
) -> tuple[tuple[Cell, ...], dict[int, str]]:
    """Return the tabs with their actions; `note` is shown at the right."""
    cells: list[Cell] = []
    actions: dict[int, str] = {}
    for number, ((name, _), shown) in enumerate(zip(PAGES, _tabs(counts, width), strict=True), start=1):
        actions[len(cells)] = f"app.press('main', '{number}')"
        role: Role = "chosen" if name == page else "dim"
        cells.append(Cell(f" {number} {shown} ", role))
        cells.append(Cell(" "))
    used = sum(len(cell.text) for cell in cells)
    left = width - used
    if left > 8 and note:
        shown = fit(note, min(len(note), left - 2))
        cells += [Cell(" " * (left - len(shown) - 1)), Cell(shown + " ", "dim")]
    return tuple(cells), actions


def _tabs(counts: Mapping[str, int], width: int) -> list[str]:
    """Return the titles with their counts, shortened to the width."""
    shown: list[str] = []
    for most in (20, 5, 2):
        shown = [
            title[:most] + (f" {counts[name]}" if counts.get(name) else "") for name, title in PAGES
        ]
        if sum(len(text) + 5 for text in shown) <= width:
            break
    return shown


def key_cells(keys: Iterable[Key], width: int) -> tuple[tuple[Cell, ...], dict[int, str]]:
    """Return the keys that fit, always including `?`, with their actions."""
    shown = list(keys)
    last = [key for key in shown if key.action == "help"]
    rest = [key for key in shown if key.action != "help"]
    left = width - sum(_key_width(key) for key in last)
    taken: list[Key] = []
    for key in rest:
        if _key_width(key) > left:
            break
        taken.append(key)
        left -= _key_width(key)
    cells: list[Cell] = []
    actions: dict[int, str] = {}
    for key in (*taken, *last):
        actions[len(cells)] = actions[len(cells) + 1] = (
            f"app.press('{key.owner}', '{key.keys.partition(',')[0]}')"
        )
        cells += [Cell(f" {key.shown}", "key"), Cell(f" {key.brief}  ", "dim")]
    return tuple(cells), actions


def _key_width(key: Key) -> int:
    return len(key.shown) + len(key.brief) + 4


def history_rows(entries: Iterable[Entry], width: int) -> list[tuple[Cell, ...]]:
    """Return the audit log below the interventions, newest first."""
    changes = [entry for entry in entries if entry.code.startswith("intervention.")]
    if not changes:
        return []
    title = (Cell("history: who changed what, newest first", "header"),)
    return [(Cell(""),), title, *(row for entry in reversed(changes) for row in log_rows(entry, width))]


LOG_HEADER = (Cell(" " + fit("time", 10) + fit("step", 10) + "event", "header"),)
_LEVELS: dict[str, Role] = {"info": "normal", "warning": "warning", "error": "above3"}
_BEFORE_TEXT = 20
_SIGNS = {"info": "", "warning": "! ", "error": "✕ "}


def log_rows(entry: Entry, width: int) -> list[tuple[Cell, ...]]:
    """Return the lines of one entry of the log; long ones are wrapped."""
    role, room = _LEVELS[entry.level], max(20, width - _BEFORE_TEXT)
    first, *rest = entry.text.splitlines() or [""]
    lines = _wrapped(_SIGNS[entry.level] + first, room)
    for line in rest:
        lines += _wrapped("  " + line, room)
    clock = time.strftime("%H:%M:%S", time.localtime(entry.time_s))
    step = "" if entry.step is None else f"{entry.step:,}"
    before = [Cell(fit(clock, 10), "dim"), Cell(fit(step, 10), "dim")]
    below = [(Cell(fit("", _BEFORE_TEXT)), Cell(line, role)) for line in lines[1:]]
    return [(*before, Cell(lines[0], role)), *below]


def _wrapped(text: str, room: int) -> list[str]:
    """Return a text in lines; all lines but the first are indented."""
    text = printable(text)
    if len(text) <= room:
        return [text]
    return textwrap.wrap(text, room, subsequent_indent="    ", drop_whitespace=True) or [""]


RUN_HEADER = (
    Cell(
        " " + fit("run", 28) + fit("state", 10) + fit("step", 11) + fit("started", 17) + "script",
        "header",
    ),
)


def run_row(info: RunInfo) -> tuple[Cell, ...]:
    """Return one line of the list of runs."""
    started = time.strftime("%d %b %H:%M", time.localtime(info.started_s))
    state: tuple[str, Role] = ("● live", "good") if info.is_live else ("■ ended", "dim")
    return (
        Cell(fit(info.run, 27) + " ", "container" if info.is_live else "normal"),
        Cell(fit(state[0], 10), state[1]),
        Cell(fit("" if info.step is None else f"{info.step:,}", 11)),
        Cell(fit(started, 17), "dim"),
        Cell(fit(info.script.rpartition("/")[2], 20), "dim"),
    )
