"""The other lines around the table: the interventions' bar, the tabs, the keys; and the lists' rows."""

import time
from collections.abc import Iterable, Sequence

from gradscope.protocol import InterventionState, RunInfo
from gradscope_tui.keys import Key
from gradscope_tui.store import Entry
from gradscope_tui.view.cell import Cell, Role, fit, printable
from gradscope_tui.view.words import in_force, layers_in_words, short, whole_line

__all__ = [
    "INTERVENTION_HEADER",
    "LOG_HEADER",
    "PAGES",
    "RUN_HEADER",
    "bar_cells",
    "intervention_row",
    "key_cells",
    "log_row",
    "run_row",
    "tab_cells",
]

PAGES = (("layers", "Layers"), ("interventions", "Interventions"), ("log", "Log"))


def bar_cells(states: Sequence[InterventionState], width: int) -> tuple[Cell, ...]:
    """Return the line that cannot be missed while gradients are changed."""
    active = sum(state.active_since is not None for state in states)
    pending = len(states) - active
    words = [f"{active} active" if active else "", f"{pending} pending" if pending else ""]
    lines = " · ".join(printable(whole_line(state)) for state in states)
    text = f" ◆ {', '.join(w for w in words if w)}   {lines}"
    return (Cell(fit(text, width), "alarm"),)


def tab_cells(
    page: str, counts: dict[str, int], note: str, width: int
) -> tuple[tuple[Cell, ...], dict[int, str]]:
    """Return the tabs with their actions; `note` stands at the right."""
    cells: list[Cell] = []
    actions: dict[int, str] = {}
    is_narrow = width < 60
    for number, (name, title) in enumerate(PAGES, start=1):
        shown = title[:5].rstrip() if is_narrow else title
        many = f" {counts[name]}" if counts.get(name) else ""
        actions[len(cells)] = f"app.press('main', '{number}')"
        role: Role = "chosen" if name == page else "dim"
        cells.append(Cell(f" {number} {shown}{many} ", role))
        cells.append(Cell(" "))
    used = sum(len(cell.text) for cell in cells)
    left = width - used
    if left > 8 and note:
        shown = fit(note, min(len(note), left - 2))
        cells += [Cell(" " * (left - len(shown) - 1)), Cell(shown + " ", "dim")]
    return tuple(cells), actions


def key_cells(keys: Iterable[Key], width: int) -> tuple[tuple[Cell, ...], dict[int, str]]:
    """Return as many keys as fit, `?` among them, with their actions."""
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


INTERVENTION_HEADER = (
    Cell(
        " " + fit("what", 17) + fit("layers", 34) + fit("since", 26) + fit("ends", 24) + "set by",
        "header",
    ),
)


def intervention_row(state: InterventionState) -> tuple[Cell, ...]:
    """Return one line of the interventions' list."""
    role: Role = "pending" if state.active_since is None else "active"
    return (
        Cell(fit(short(state.action, state.arguments), 16) + " ", role),
        Cell(fit(layers_in_words(state.layers), 33) + " "),
        Cell(fit(in_force(state), 25) + " "),
        Cell(fit(state.end, 23) + " ", "dim"),
        Cell(fit(state.set_by, 20), "dim"),
    )


LOG_HEADER = (Cell(" " + fit("time", 10) + fit("step", 10) + "what happened", "header"),)
_LEVELS: dict[str, Role] = {"info": "normal", "warning": "warning", "error": "above3"}
_SIGNS = {"info": " ", "warning": "! ", "error": "✕ "}


def log_row(entry: Entry) -> tuple[Cell, ...]:
    """Return one line of the log."""
    clock = time.strftime("%H:%M:%S", time.localtime(entry.time_s))
    step = "" if entry.step is None else f"{entry.step:,}"
    text = _SIGNS[entry.level].strip() + (" " if entry.level != "info" else "") + entry.text
    return (
        Cell(fit(clock, 10), "dim"),
        Cell(fit(step, 10), "dim"),
        Cell(printable(text), _LEVELS[entry.level]),
    )


RUN_HEADER = (
    Cell(
        " " + fit("run", 28) + fit("state", 10) + fit("step", 11) + fit("started", 17) + "script",
        "header",
    ),
)


def run_row(info: RunInfo) -> tuple[Cell, ...]:
    """Return one line of the runs' list."""
    started = time.strftime("%d %b %H:%M", time.localtime(info.started_s))
    state: tuple[str, Role] = ("● live", "good") if info.is_live else ("■ ended", "dim")
    return (
        Cell(fit(info.run, 27) + " ", "container" if info.is_live else "normal"),
        Cell(fit(state[0], 10), state[1]),
        Cell(fit("" if info.step is None else f"{info.step:,}", 11)),
        Cell(fit(started, 17), "dim"),
        Cell(fit(info.script.rpartition("/")[2], 20), "dim"),
    )
