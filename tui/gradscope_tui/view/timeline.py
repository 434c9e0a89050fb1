"""The line with the position in a recording: which step is shown, and where findings and interventions are."""

from gradscope_tui.replay import Replay
from gradscope_tui.view.cell import Cell, Line, Role, cells_of, fit, printable

__all__ = ["timeline_cells"]

_LEAST_BAR = 12
_ROLES: dict[str, Role] = {"✖": "above3", "▲": "warning", "○": "dim", "◆": "active"}
_ORDER = "✖▲◆○"
_TEXT_LEAST = 40
"""The text of a landmark is shown in a line of its own from this width on."""


def timeline_cells(replay: Replay, width: int) -> tuple[Line, Line]:
    """Return the line of the position, and the line of the landmark there, or of the next one."""
    run, place = replay.run, replay.shown_place
    if run is None or place is None:
        return (Cell(fit(" opening the recording…", width), "dim"),), ()
    sign = "▶" if replay.is_playing else "❚❚"
    if not run.steps:
        return (
            Cell(fit(f" {sign} no step was observed; this is the end of the run", width), "title"),
        ), ()
    position = f" {sign} step {run.steps[place]:,} "
    count = f", observed step {place + 1:,} of {len(run.steps):,}"
    is_last = place == run.last_place and run.last > run.steps[place]
    among = f"and on to the end at {run.last:,}" if is_last else f"of {run.first:,} to {run.last:,}"
    if len(position) + len(among) + len(count) + _LEAST_BAR <= width:
        among += count
    among += " "
    if replay.shown_step != run.steps[place]:
        shown = "nothing" if replay.shown_step is None else f"step {replay.shown_step:,}"
        among = f"cannot be read; shown: {shown} "
    room = width - len(position) - len(among) - 1
    bar = list(cells_of(_bar(replay, room))) if room >= _LEAST_BAR else []
    mark, ahead = replay.landmark, replay.next_landmark
    text: Line = ()
    if mark is None and ahead is not None and width >= _TEXT_LEAST:
        words = f" next, at step {ahead.step:,}: {ahead.sign} {printable(ahead.text)}"
        text = (Cell(fit(words, width), "dim"),)
    elif mark is not None and width >= _TEXT_LEAST:
        when = "" if mark.step == run.steps[place] else f"step {mark.step:,}: "
        text = (
            Cell(
                fit(f" {mark.sign} {when}{printable(mark.text)}", width),
                _ROLES.get(mark.sign, "normal"),
            ),
        )
    return (Cell(position, "title"), Cell(among, "dim"), *bar), text


def _bar(replay: Replay, room: int) -> list[tuple[str, Role]]:
    """Return the run as a line of characters: signs of landmarks, and a block at the position."""
    run, place = replay.run, replay.shown_place
    if run is None or place is None:
        return []
    span = max(1, run.last - run.first)

    def column(step: int) -> int:
        return min(room - 1, max(0, (step - run.first) * (room - 1) // span))

    line: list[tuple[str, Role]] = [("─", "dim")] * room
    for mark in sorted(run.landmarks, key=lambda each: -_ORDER.find(each.sign)):
        line[column(mark.step)] = (mark.sign, _ROLES.get(mark.sign, "normal"))
    at = column(run.steps[place])
    line[at] = ("█", "title") if line[at][0] == "─" else (line[at][0], "chosen")
    return line
