"""The memory page: two bars with legends, the memory over steps, and a line for each layer.

A segment of a bar has a pattern as well as a colour, so that colour is not needed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from gradscope.columns import (
    MemoryRow,
    MemoryTable,
    TimeRow,
    TimesTable,
    bytes_in_words,
    seconds_in_words,
)
from gradscope_tui.store.resources import ResourceStore
from gradscope_tui.view.cell import Cell, Line, Role, fit, printable, text_of
from gradscope_tui.view.plots.sparkline import sparkline

__all__ = ["bar_cells", "exhausted_text", "head_lines", "layer_header", "layer_rows", "legend_lines"]


@dataclass(frozen=True, slots=True)
class _Segment:
    name: str
    shown: str
    pattern: str
    role: Role


_MEMORY: Final = (
    _Segment("saved", "saved for backward", "█", "above2"),
    _Segment("parameters", "parameters", "▓", "below1"),
    _Segment("gradients", "gradients", "▒", "above1"),
    _Segment("optimizer", "optimizer", "▞", "below3"),
    _Segment("buffers", "buffers", "▚", "below2"),
    _Segment("batch", "in and out", "░", "good"),
    _Segment("unexplained", "unexplained", "·", "dim"),
)
_TIME: Final = (
    _Segment("data", "before the forward", "·", "dim"),
    _Segment("forward", "forward", "█", "below1"),
    _Segment("loss", "loss", "▞", "good"),
    _Segment("backward", "backward", "▓", "above2"),
    _Segment("optimizer", "optimizer", "▒", "below3"),
    _Segment("other", "other", "░", "merged"),
)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the list. Columns with a low `rank` are also shown in narrow terminals."""

    name: str
    title: str
    width: int
    rank: int


_NAME_LEAST: Final = 24
_COLUMNS: Final = (
    _Column("saved", "saved", 10, 0),
    _Column("share", "", 8, 5),
    _Column("total", "with below", 11, 3),
    _Column("param", "params", 10, 4),
    _Column("grad", "grads", 10, 6),
    _Column("optimizer", "optimizer", 10, 7),
    _Column("buffer", "buffers", 10, 8),
    _Column("forward", "forward", 10, 1),
    _Column("backward", "backward", 10, 2),
    _Column("calls", "calls", 7, 9),
)


def head_lines(store: ResourceStore, exhausted: str, width: int) -> list[Line]:
    """Return the lines above the table: out-of-memory error, bars, memory over steps, notes."""
    lines: list[Line] = []
    if exhausted:
        lines.append((Cell(fit(f" ✕ {exhausted}", width), "bad"),))
    if store.memory is not None:
        lines += _memory_lines(store.memory, width)
        lines += _memory_over_steps(store, width)
    if store.times is not None:
        lines += _time_lines(store.times, width)
    notes = dict.fromkeys(
        (*(store.memory.notes if store.memory else ()), *(store.times.notes if store.times else ()))
    )
    lines += [(Cell(fit(f" ! {note}", width), "warning"),) for note in list(notes)[:3]]
    return [*lines, (Cell(""),)] if lines else []


def _memory_lines(memory: MemoryTable, width: int) -> list[Line]:
    whose = "allocated on the device" if "device_allocated" in memory.machine else "resident"
    title = f" memory after the forward of step {memory.step:,}"
    return [
        _title(title, f"{bytes_in_words(memory.balance['total'])} {whose}", width),
        bar_cells(_MEMORY, memory.balance, width),
        *legend_lines(_MEMORY, memory.balance, bytes_in_words, width),
        (Cell(fit(f" {_machine_in_words(memory.machine)}", width), "dim"),),
    ]


def _machine_in_words(machine: Mapping[str, int]) -> str:
    shown = (
        ("device_reserved", "reserved"),
        ("device_peak", "peak"),
        ("device_fragmented", "fragmented"),
        ("device_others", "other processes"),
        ("device_total", "device"),
        ("host_resident", "process"),
        ("host_peak", "its peak"),
    )
    parts = [f"{word} {bytes_in_words(machine[n])}" for n, word in shown if n in machine]
    if "host_available" in machine:
        whole_host = machine.get("host_total")
        of = f" of {bytes_in_words(whole_host)}" if whole_host else ""
        parts.append(f"host {bytes_in_words(machine['host_available'])}{of} free")
    return " · ".join(parts)


def _memory_over_steps(store: ResourceStore, width: int) -> list[Line]:
    past = store.saved_bytes
    if len(past) < 2:
        return []
    step, peak = max(past.items(), key=lambda each: each[1])
    words = f"most {bytes_in_words(peak)} in step {step:,} "
    room = width - len(words) - 37
    cells = [Cell(" saved memory over measured steps  ", "dim")]
    if room >= 4:
        sizes = np.array(list(past.values()), np.float64)
        cells.append(Cell(sparkline(sizes, min(room, 40), is_log=False).strip() + "  ", "spark"))
    return [(*cells, Cell(words))]


def _time_lines(times: TimesTable, width: int) -> list[Line]:
    total = sum(times.phases_s.values())
    observed = ", an observed step" if times.is_observed else ""
    title = f" time of step {times.step:,}, {times.clock} clock{observed}"
    return [
        _title(title, seconds_in_words(total), width),
        bar_cells(_TIME, times.phases_s, width),
        *legend_lines(_TIME, times.phases_s, seconds_in_words, width),
    ]


def _title(left: str, right: str, width: int) -> Line:
    gap = width - len(left) - len(right) - 1
    if gap < 1:
        return (Cell(fit(left, width), "title"),)
    return (Cell(left, "title"), Cell(" " * gap), Cell(right, "container"))


def bar_cells(segments: Sequence[_Segment], sizes: Mapping[str, float], width: int) -> Line:
    """Return a bar of `width` cells. A segment above zero has at least one cell."""
    there = [(each, sizes.get(each.name, 0)) for each in segments if sizes.get(each.name, 0) > 0]
    room = max(len(there), width - 2)
    lengths = _segment_lengths([size for _, size in there], room)
    cells = [Cell(each.pattern * n, each.role) for (each, _), n in zip(there, lengths, strict=True)]
    return (Cell(" "), *cells)


def _segment_lengths(sizes: Sequence[float], room: int) -> list[int]:
    """Divide `room` cells by size, at least one each. The largest get the remainder of the rounding."""
    total = sum(sizes)
    if not total:
        return []
    lengths = [max(1, int(room * size / total)) for size in sizes]
    order = sorted(range(len(sizes)), key=lambda i: -sizes[i])
    while sum(lengths) > room and max(lengths) > 1:
        lengths[max(range(len(lengths)), key=lengths.__getitem__)] -= 1
    lengths[order[0]] += max(0, room - sum(lengths))
    return lengths


def legend_lines(
    segments: Sequence[_Segment],
    sizes: Mapping[str, float],
    in_words: Callable[[float], str],
    width: int,
) -> list[Line]:
    """Return the names and sizes of the segments, in as many lines as needed."""
    lines: list[Line] = []
    for each in segments:
        size = sizes.get(each.name, 0)
        if not size:
            continue
        name = Cell(each.pattern, each.role), Cell(f" {each.shown} ", "dim")
        line = (*(lines[-1] if lines else (Cell(" "),)), *name, Cell(f"{in_words(size)}   "))
        if not lines or len(text_of(line).rstrip()) > width:
            lines.append((Cell(" "), *line[-3:]))
        else:
            lines[-1] = line
    return lines


def layer_header(width: int) -> Line:
    """Return the column titles, after one cell for the cursor."""
    name, columns = _fitting_columns(width - 1)
    titles = "".join(fit(c.title.rjust(c.width - 1), c.width) for c in columns)
    return (Cell(fit(" layer", name + 1) + titles, "header"),)


def layer_rows(store: ResourceStore, width: int) -> list[Line]:
    """Return a line for each layer with memory or time; layers that save most come first."""
    memory, times = store.memory, store.times
    names = list(memory or times or ())
    found = [(name, memory[name] if memory else None, _time_of(times, name)) for name in names]
    found = [each for each in found if _uses_memory_or_time(each[1], each[2])]
    found.sort(key=lambda each: (-_saved_bytes(each[1]), -_seconds(each[2])))
    most = max((_saved_bytes(row) for _, row, _ in found), default=0)
    name_width, columns = _fitting_columns(width)
    return [
        (
            Cell(fit(name or "(the model itself)", name_width - 1, keep_end=True) + " "),
            *(_layer_cell(column, row, time, most) for column in columns),
        )
        for name, row, time in found
    ]


def _time_of(times: TimesTable | None, name: str) -> TimeRow | None:
    return times[name] if times is not None and name in times else None


def _uses_memory_or_time(row: MemoryRow | None, time: TimeRow | None) -> bool:
    sizes = (row.saved_bytes, row.param_bytes, row.buffer_bytes, row.total.saved_bytes) if row else ()
    return any(sizes) or bool(time and time.calls)


def _saved_bytes(row: MemoryRow | None) -> int:
    return (row.saved_bytes or 0) if row else 0


def _seconds(time: TimeRow | None) -> float:
    return ((time.forward_s or 0.0) + (time.backward_s or 0.0)) if time else 0.0


def _fitting_columns(width: int) -> tuple[int, list[_Column]]:
    left = width - 1 - _NAME_LEAST
    chosen = set()
    for column in sorted(_COLUMNS, key=lambda each: each.rank):
        if column.width > left:
            break
        chosen.add(column.name)
        left -= column.width
    return _NAME_LEAST + max(0, left), [column for column in _COLUMNS if column.name in chosen]


def _layer_cell(column: _Column, row: MemoryRow | None, time: TimeRow | None, most: int) -> Cell:
    if column.name == "share":
        filled = round((column.width - 2) * _saved_bytes(row) / most) if most else 0
        return Cell(" " + "▰" * filled + " " * (column.width - 1 - filled), "above2")
    text, is_known = _number_in_words(column.name, row, time)
    role: Role = "dim" if not is_known or text == "0" else "normal"
    return Cell(fit(text.rjust(column.width - 1), column.width), role)


def _number_in_words(name: str, row: MemoryRow | None, time: TimeRow | None) -> tuple[str, bool]:
    value: float | None
    if name in ("forward", "backward", "calls"):
        value = getattr(time, "calls" if name == "calls" else f"{name}_s", None)
    else:
        value = (
            row.total.saved_bytes if row and name == "total" else getattr(row, f"{name}_bytes", None)
        )
    if value is None:
        return "·", False
    if not value:
        return "0", True
    if name == "calls":
        return f"{int(value):,}", True
    return (seconds_in_words if name in ("forward", "backward") else bytes_in_words)(value), True


def exhausted_text(texts: Sequence[str]) -> str:
    """Return the first line of the newest out-of-memory report; empty if there is none."""
    found = [text for text in texts if text.startswith("out of memory")]
    return printable(found[-1].splitlines()[0]) if found else ""
