"""The lines around the pages (pause, interventions, tabs, keys), and the rows of the other lists."""

import textwrap
import time
from collections.abc import Iterable, Mapping, Sequence

from gradscope.names import counted
from gradscope.protocol import (
    BreakpointState,
    InterventionState,
    PauseState,
    RuleState,
    RunInfo,
    rule_in_words,
    schedule_in_words,
)
from gradscope_tui.keys import Key
from gradscope_tui.store.journal import Entry
from gradscope_tui.view.cell import Cell, Line, Role, fit, printable
from gradscope_tui.view.columns import TextColumn
from gradscope_tui.view.intervention_text import (
    intervention_in_words,
    intervention_line,
    layers_in_words,
    start_in_words,
)
from gradscope_tui.view.numbers import duration

__all__ = [
    "INTERVENTION_COLUMNS",
    "LOG_HEADER",
    "PAGES",
    "RUN_COLUMNS",
    "bar_cells",
    "breakpoint_rows",
    "history_rows",
    "intervention_row",
    "key_cells",
    "log_rows",
    "pause_cells",
    "rule_rows",
    "run_row",
    "tab_cells",
]

PAGES = (
    ("layers", "Layers"),
    ("findings", "Findings"),
    ("memory", "Memory"),
    ("interventions", "Interventions"),
    ("log", "Log"),
    ("depth", "Depth"),
)


def bar_cells(states: Sequence[InterventionState], width: int) -> Line:
    """Return the bar of the active and pending interventions."""
    active = sum(state.active_since is not None for state in states)
    pending = len(states) - active
    words = [f"{active} active" if active else "", f"{pending} pending" if pending else ""]
    lines = " · ".join(printable(intervention_line(state)) for state in states)
    text = f" ◆ {', '.join(w for w in words if w)}   {lines}"
    return (Cell(fit(text, width), "alarm"),)


def pause_cells(pause: PauseState, left_s: float) -> Line:
    """Return the bar of a pause with its step, the time left and the reason."""
    why = f" · {printable(pause.reason)}" if pause.reason else ""
    left = f"resumes in {duration(left_s)}" if left_s > 0 else "its lease has expired"
    text = f" ❚❚ PAUSED before step {pause.step:,} · {left} · P resumes, . one step{why} "
    return (Cell(text, "alarm"),)


def tab_cells(
    page: str, counts: dict[str, int], note: str, width: int, *, has_problem: bool = False
) -> tuple[Line, dict[int, str]]:
    """Return the tabs with their actions; `note` is shown at the right. `has_problem` marks the findings."""
    cells: list[Cell] = []
    actions: dict[int, str] = {}
    for number, ((name, _), shown) in enumerate(
        zip(PAGES, _tab_titles(counts, width, len(note)), strict=True), start=1
    ):
        actions[len(cells)] = f"app.press('main', '{number}')"
        is_alarm = name == "findings" and has_problem
        role: Role = "chosen" if name == page else ("warning" if is_alarm else "dim")
        cells.append(Cell(f" {number} {shown} ", role))
    used = sum(len(cell.text) for cell in cells)
    left = width - used
    if left > 8 and note:
        shown = fit(note, min(len(note), left - 2))
        cells += [Cell(" " * (left - len(shown) - 1)), Cell(shown + " ", "dim")]
    return tuple(cells), actions


def _tab_titles(counts: Mapping[str, int], width: int, note: int) -> list[str]:
    """Return the titles with their counts, shortened to the width; a little, if there is room for the note then."""
    shown: list[str] = []
    for most, beside in ((20, note), (8, note), (20, 0), (5, 0), (2, 0), (1, 0)):
        shown = [
            _cut(title, most) + (f" {counts[name]}" if counts.get(name) else "")
            for name, title in PAGES
        ]
        if sum(len(text) + 4 for text in shown) + (beside and beside + 2) <= width:
            break
    return shown


def _cut(title: str, most: int) -> str:
    """Return the start of a title; a long abbreviation has a full stop, and saves more than one cell."""
    is_long = most > 5
    return title if is_long and len(title) <= most + 1 else title[:most] + ("." if is_long else "")


def key_cells(keys: Iterable[Key], width: int) -> tuple[Line, dict[int, str]]:
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


def breakpoint_rows(states: Sequence[BreakpointState], width: int) -> list[Line]:
    """Return a title and a row for each breakpoint: condition, how often it has paused the training, who set it."""
    if not states:
        return []
    title = (Cell("breakpoints: B adds one, e edits it, x removes it", "header"),)
    rows: list[Line] = []
    for state in states:
        often = f"paused {counted(state.hits, 'time')}" if state.hits else "not reached yet"
        about = fit(f"  {often}, set by {state.set_by}", max(0, width - 30))
        text = fit(state.condition, max(10, min(60, width - len(about.rstrip()))))
        rows.append((Cell(text, "active"), Cell(about.rstrip(), "dim")))
    return [(Cell(""),), title, *rows]


def rule_rows(states: Sequence[RuleState], width: int) -> list[Line]:
    """Return a title and a row for each set rule: what it checks, its action, how often it has reported, who set it."""
    if not states:
        return []
    title = (Cell("rules: W sets one, e edits it, x removes it; others have their defaults", "header"),)
    rows: list[Line] = []
    for state in states:
        often = (
            f"reported {counted(state.reports, 'time')}" if state.reports else "nothing reported yet"
        )
        end = f", {state.end}" if state.end else ""
        about = fit(
            f"  {state.setting.action}; {often}; set by {state.set_by}{end}", max(0, width - 30)
        )
        text = fit(rule_in_words(state.setting), max(10, min(60, width - len(about.rstrip()))))
        rows.append((Cell(printable(text), "active"), Cell(printable(about.rstrip()), "dim")))
    return [(Cell(""),), title, *rows]


def history_rows(entries: Iterable[Entry], width: int) -> list[Line]:
    """Return the audit log below the interventions, newest first."""
    changes = [entry for entry in entries if entry.is_of_intervention]
    if not changes:
        return []
    title = (Cell("history: who changed what, newest first", "header"),)
    return [(Cell(""),), title, *(row for entry in reversed(changes) for row in log_rows(entry, width))]


LOG_HEADER = (Cell(" " + fit("time", 10) + fit("step", 10) + "event", "header"),)
_LEVELS: dict[str, Role] = {"info": "normal", "warning": "warning", "error": "above3"}
_BEFORE_TEXT = 20
_SIGNS = {"info": "", "warning": "! ", "error": "✕ "}


def log_rows(entry: Entry, width: int) -> list[Line]:
    """Return the lines of one entry of the log; long ones are wrapped."""
    role, room = _LEVELS[entry.level], max(20, width - _BEFORE_TEXT)
    first, *rest = entry.text.splitlines() or [""]
    lines = _wrapped_lines(_SIGNS[entry.level] + first, room)
    for line in rest:
        lines += _wrapped_lines("  " + line, room)
    clock = time.strftime("%H:%M:%S", time.localtime(entry.time_s))
    step = "" if entry.step is None else f"{entry.step:,}"
    before = [Cell(fit(clock, 10), "dim"), Cell(fit(step, 10), "dim")]
    below = [(Cell(fit("", _BEFORE_TEXT)), Cell(line, role)) for line in lines[1:]]
    return [(*before, Cell(lines[0], role)), *below]


def _wrapped_lines(text: str, room: int) -> list[str]:
    """Return a text in lines; all lines but the first are indented."""
    text = printable(text)
    if len(text) <= room:
        return [text]
    return textwrap.wrap(text, room, subsequent_indent="    ", drop_whitespace=True) or [""]


RUN_COLUMNS = (
    TextColumn("run", 12, 5),
    TextColumn("state", 7, 6),
    TextColumn("step", 0, 4),
    TextColumn("started", 0, 3),
    TextColumn("script", 0, 1),
)


def run_row(info: RunInfo) -> Line:
    """Return a cell for each column. The step of a live run comes from the hub's newest list."""
    started = time.strftime("%d %b %H:%M", time.localtime(info.started_s))
    step = "" if info.step is None else f"{'≥ ' if info.is_live else ''}{info.step:,}"
    return (
        Cell(info.run, "container" if info.is_live else "normal"),
        _state_cell(info),
        Cell(step),
        Cell(started, "dim"),
        Cell(info.script.rpartition("/")[2], "dim"),
    )


def _state_cell(info: RunInfo) -> Cell:
    """Return the state of a run. A recording without an end may be of a run that was killed, or is live elsewhere."""
    if info.is_live:
        return Cell("● live", "good")
    if info.has_failed:
        return Cell("✕ failed", "above3")
    return Cell("■ no end" if info.reason == "no end is recorded" else "■ ended", "dim")


INTERVENTION_COLUMNS = (
    TextColumn("action", 22, 4),
    TextColumn("layers", 10, 2),
    TextColumn("since", 10, 5),
    TextColumn("schedule, end", 8, 3),
    TextColumn("set by", 0, 1),
)


def intervention_row(state: InterventionState, step: int | None) -> Line:
    """Return a cell for each column."""
    ends = ", ".join(words for words in (schedule_in_words(state.schedule), state.end) if words)
    return (
        Cell(intervention_in_words(state), "pending" if state.active_since is None else "active"),
        Cell(layers_in_words(state.layers)),
        Cell(start_in_words(state, step).removeprefix("active since ")),
        Cell(ends, "dim"),
        Cell(state.set_by, "dim"),
    )
