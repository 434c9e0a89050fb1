"""The status line: run, step, speed, loss, cost of observing, and the age of the data.

Parts that do not fit are left out, in descending order of rank. The state of the link is always
shown.
"""

import itertools
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gradscope.names import counted
from gradscope.protocol import RunInfo
from gradscope_tui.store.run import RunStore
from gradscope_tui.view.cell import Cell, fit, printable
from gradscope_tui.view.numbers import duration, ordinal, percent, scalar
from gradscope_tui.view.plots.sparkline import sparkline

__all__ = ["STALE_S", "Phase", "Status", "liveness", "status_cells", "status_of"]

Phase: TypeAlias = Literal["none", "connecting", "up", "lost", "refused"]
"""The phases of a link; `none` if there is no hub."""

STALE_S = 1.5
"""Older data is shown as old: within 2 s, because the screen is updated four times per second."""

_USUAL_STEPS = 2.5
"""A run with slow steps is late only after this many of its usual step times."""

_END_WIDTH = 60
"""How a run ended is cut after this, so that the name of the run is still shown."""

_LOSS_WIDTH = 14
_LOSSES = 280
_SHOWN_INTERVALS = 8


@dataclass(frozen=True, slots=True)
class Status:
    """The content of the status line; None means unknown.

    `every` is the newest interval between observed steps, `observed` are the newest observed steps.
    `waiting` counts the steps that a frozen view hides, `dropped` the messages that this viewer dropped.
    `recording`: the text that says that a recording is shown; empty for a run.
    """

    run: str = ""
    step: int | None = None
    steps_per_second: float | None = None
    loss_name: str = ""
    losses: NDArray[np.float32] | None = None
    ranks: str = ""
    cost: float | None = None
    every: int | None = None
    observed: tuple[int, ...] = ()
    measured_by: str = ""
    phase: Phase = "none"
    reason: str = ""
    dropped: int = 0
    age_s: float | None = None
    is_ended: bool = False
    end_reason: str = ""
    has_failed: bool = False
    is_readonly: bool = False
    is_paused: bool = False
    waiting: int | None = None
    recording: str = ""


def status_of(store: RunStore, end: RunInfo | None) -> Status:
    """Return the status of a store, without the fields of the link. `end` says how the run ended."""
    loss = next(iter(store.scalars.names), "")
    newest = store.newest
    return Status(
        run=store.run,
        step=store.step,
        steps_per_second=store.scalars.steps_per_second(),
        loss_name=loss,
        losses=store.scalars.series(loss, _LOSSES)[1] if loss else None,
        ranks=store.ranks.in_words(),
        cost=newest.cost if newest else None,
        every=newest.every if newest else None,
        observed=tuple(store.ring.steps(_SHOWN_INTERVALS + 1).tolist()),
        measured_by=store.measured_by,
        age_s=store.age_s(),
        is_ended=end is not None,
        end_reason=end.reason if end else "",
        has_failed=end is not None and end.has_failed,
        is_paused=store.pause is not None,
    )


def liveness(status: Status) -> Cell:
    """Return the state of link and run: live, stale, lost, ended, ..."""
    if status.recording:
        return Cell(fit(status.recording, min(len(status.recording), _END_WIDTH)), "title")
    age = "" if status.age_s is None else duration(status.age_s)
    match status.phase:
        case "refused":
            return Cell(f"✕ refused: {printable(status.reason)}", "bad")
        case "none" if not age:
            return Cell("◌ no hub", "warning")
        case "connecting":
            return Cell("◌ connecting", "warning")
        case "lost" | "none":
            shown = f", data {age} old" if age else ""
            return Cell(f"✕ link lost, reconnecting{shown}", "bad")
    return _freshness(status, age)


def _freshness(status: Status, age: str) -> Cell:
    if status.is_ended:
        text = "■ ended" + (f" {age} ago" if age else "")
        text += f": {printable(status.end_reason)}" if status.end_reason else ""
        return Cell(fit(text, min(len(text), _END_WIDTH)), "bad" if status.has_failed else "title")
    if status.is_paused:
        return Cell("❚❚ paused", "warning")
    if status.age_s is None:
        return Cell("◌ no step yet", "dim")
    if status.age_s <= STALE_S:
        return Cell("● live", "good")
    if status.steps_per_second and status.age_s < _USUAL_STEPS / status.steps_per_second:
        return Cell(f"● last step {age} ago", "good")
    return Cell(f"◌ no new step for {age}", "warning")


def status_cells(status: Status, width: int) -> tuple[Cell, ...]:
    """Return the line in exactly `width` cells."""
    state = liveness(status)
    state = Cell(f" {state.text} ", state.role)
    if len(state.text) > width:
        return (Cell(fit(state.text, width), state.role),)
    left = width - len(state.text)
    chosen: dict[float, list[Cell]] = {}
    for _, place, part in sorted(_ranked_parts(status), key=lambda item: item[0]):
        needed = sum(len(cell.text) for cell in part) + (3 if chosen else 1)
        if needed <= left:
            chosen[place] = part
            left -= needed
    line: list[Cell] = []
    for place in sorted(chosen):
        line += [Cell("   " if line else " "), *chosen[place]]
    used = sum(len(cell.text) for cell in line)
    return (*line, Cell(" " * (width - len(state.text) - used)), state)


def _ranked_parts(status: Status) -> list[tuple[int, float, list[Cell]]]:
    """Return (rank, place, cells) of each part. Parts with a low rank are left out last."""
    parts: list[tuple[int, float, list[Cell]]] = []
    if status.waiting is not None:
        parts.append((0, 6, [Cell(f" ❚❚ frozen, {status.waiting} waiting ", "chosen")]))
    parts.append((2, 0, [Cell(fit(status.run, min(24, len(status.run))) or "gradscope", "title")]))
    if status.dropped:
        text = f"{counted(status.dropped, 'message')} dropped by this viewer"
        parts.append((3, 5.7, [Cell(text, "warning")]))
    if status.step is not None:
        parts.append((1, 1, [Cell("step ", "dim"), Cell(f"{status.step:,}")]))
    if status.steps_per_second is not None:
        parts.append((4, 2, [Cell(_rate_in_words(status.steps_per_second)), Cell(" steps/s", "dim")]))
    if status.ranks:
        parts.append((2, 0.5, [Cell(status.ranks)]))
    parts += _loss_parts(status)
    if status.cost is not None or status.every is not None:
        parts.append((7, 5, _cost_cells(status)))
    if status.measured_by:
        parts.append((8, 5.5, [_pass_cell(status.measured_by)]))
    if status.is_readonly:
        parts.append((5, 7, [Cell("read-only", "dim")]))
    return parts


def _rate_in_words(steps_per_second: float) -> str:
    if steps_per_second >= 99.5:
        return f"{steps_per_second:,.0f}"
    return f"{steps_per_second:.1f}" if steps_per_second >= 1 else f"{steps_per_second:.2g}"


def _loss_parts(status: Status) -> list[tuple[int, float, list[Cell]]]:
    if status.losses is None or not len(status.losses):
        return []
    newest = float(status.losses[-1])
    number = Cell(scalar(newest), "normal" if np.isfinite(newest) else "bad")
    name = Cell(f"{printable(status.loss_name)} ", "dim")
    spark = Cell(sparkline(_averaged_losses(status.losses), _LOSS_WIDTH, is_log=False).strip(), "spark")
    return [(3, 3, [name, number]), (6, 4, [spark])]


def _averaged_losses(losses: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the losses, averaged so that each cell of the sparkline has one number."""
    parts = np.array_split(losses.astype(np.float64), min(len(losses), _LOSS_WIDTH))
    return np.array([part.mean() for part in parts])


def _pass_cell(measured_by: str) -> Cell:
    """Return the name of the pass. `gradscope config` explains why a slow pass is used."""
    name, _, why = measured_by.partition(":")
    return Cell(f"{printable(name)} pass", "warning" if why else "dim")


def _observed_steps(status: Status) -> str:
    """Return which of the newest steps were observed: a budget changes the interval, and a NaN adds steps."""
    if status.every is None:
        return "observing"
    gaps = [after - before for before, after in itertools.pairwise(status.observed)]
    if gaps and gaps[-1] == status.every and len(set(gaps)) > 1:
        return f"observed {len(gaps)} of the last {sum(gaps):,} steps"
    return f"observing every {'' if status.every == 1 else ordinal(status.every) + ' '}step"


def _cost_cells(status: Status) -> list[Cell]:
    cells = [Cell(_observed_steps(status), "dim")]
    if status.cost is not None:
        cells += [Cell(" costs " if status.every is None else ", costs ", "dim")]
        cells += [Cell(percent(status.cost))]
    return cells
