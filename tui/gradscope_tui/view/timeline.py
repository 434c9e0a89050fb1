"""The line with the position among observed steps, and where findings and interventions begin."""

from gradscope_tui.store.timeline import Timeline
from gradscope_tui.view.cell import Cell, Line, Role, cells_of, fit, printable

__all__ = ["timeline_cells"]

_LEAST_BAR = 12
_ROLES: dict[str, Role] = {"✖": "above3", "▲": "warning", "≠": "warning", "○": "dim", "◆": "active"}
_ORDER = "✖▲≠◆○"
_TEXT_LEAST = 40
"""The text of a landmark is shown in a line of its own from this width on."""


def timeline_cells(timeline: Timeline | None, width: int) -> tuple[Line, Line]:
    """Return the line of the position, and the line of the landmark there, or of the next one."""
    if timeline is None:
        return (Cell(fit(" opening the recording…", width), "dim"),), ()
    steps, place, last = timeline.steps, timeline.place, timeline.last
    sign = "▶" if timeline.is_playing else "❚❚"
    if not steps:
        return (
            Cell(fit(f" {sign} no step was observed; this is the end of the run", width), "title"),
        ), ()
    position = f" {sign} step {steps[place]:,} "
    count = f", observed step {place + 1:,} of {len(steps):,}"
    is_last = place == len(steps) - 1 and last > steps[place] and not timeline.is_live
    among = f"and on to the end at {last:,}" if is_last else f"of {timeline.first:,} to {last:,}"
    if timeline.is_live:
        among += " that this screen has kept" if width >= 2 * _TEXT_LEAST else ""
    if len(position) + len(among) + len(count) + _LEAST_BAR <= width:
        among += count
    among += " "
    if timeline.shown_step != steps[place]:
        shown = "nothing" if timeline.shown_step is None else f"step {timeline.shown_step:,}"
        among = f"cannot be read; shown: {shown} "
    room = width - len(position) - len(among) - 1
    bar = list(cells_of(_bar(timeline, room))) if room >= _LEAST_BAR else []
    mark, ahead = timeline.landmark, timeline.next_landmark
    text: Line = ()
    if mark is None and ahead is not None and width >= _TEXT_LEAST:
        words = f" next, at step {ahead.step:,}: {ahead.sign} {printable(ahead.text)}"
        text = (Cell(fit(words, width), "dim"),)
    elif mark is not None and width >= _TEXT_LEAST:
        when = "" if mark.step == steps[place] else f"step {mark.step:,}: "
        words = f" {mark.sign} {when}{printable(mark.text)}"
        text = (Cell(fit(words, width), _ROLES.get(mark.sign, "normal")),)
    return (Cell(position, "title"), Cell(among, "dim"), *bar), text


def _bar(timeline: Timeline, room: int) -> list[tuple[str, Role]]:
    """Return the steps as a line of characters: signs of landmarks, and a block at the position."""
    span = max(1, timeline.last - timeline.first)

    def column(step: int) -> int:
        return min(room - 1, max(0, (step - timeline.first) * (room - 1) // span))

    line: list[tuple[str, Role]] = [("─", "dim")] * room
    for mark in sorted(timeline.landmarks, key=lambda each: -_ORDER.find(each.sign)):
        line[column(mark.step)] = (mark.sign, _ROLES.get(mark.sign, "normal"))
    at = column(timeline.steps[timeline.place])
    line[at] = ("█", "title") if line[at][0] == "─" else (line[at][0], "chosen")
    return line
