"""The ranks as one line: a block for each by its time, and the rank that stands out the most, with the reason."""

from collections.abc import Sequence
from typing import Final

from gradscope.names import counted
from gradscope.protocol import RankState, RankStates
from gradscope.protocol.standing_out import median_of, standing_out
from gradscope_tui.view.cell import Cell, Line, Role, cells_of, fit, printable

__all__ = ["rank_cells", "rank_lines"]

_BLOCKS: Final = "▁▂▃▄▅▆▇"
_UNKNOWN: Final = "·"
_LEAST_TEXT: Final = 24


def rank_cells(states: RankStates | None, width: int) -> Line:
    """Return the line in exactly `width` cells; empty for a run of one rank."""
    if states is None or states.count < 2 or not states.ranks:
        return ()
    reasons = standing_out(states.ranks)
    room = max(8, width - len(" ranks  ") - _LEAST_TEXT)
    strip = list(cells_of(_blocks(states.ranks, set(reasons), min(room, len(states.ranks)))))
    used = len(" ranks ") + sum(len(cell.text) for cell in strip) + 2
    text = _summary(states, reasons)
    role: Role = "warning" if reasons else "dim"
    line = (Cell(" ranks ", "dim"), *strip, Cell("  "), Cell(fit(text, max(0, width - used)), role))
    return line if used <= width else (Cell(fit(" ranks", width), "dim"),)


def rank_lines(states: RankStates | None, width: int, most: int = 4) -> list[Line]:
    """Return the line of all ranks, and one for each of the `most` ranks that stand out the most."""
    head = rank_cells(states, width)
    if not head or states is None:
        return []
    reasons = standing_out(states.ranks)
    lines: list[Line] = [head]
    lines += [
        (Cell(fit(f"   {_rank_in_words(rank, reasons[rank])}", width).rstrip(), "warning"),)
        for rank in _order(reasons)[:most]
    ]
    return lines


def _blocks(ranks: Sequence[RankState], marked: set[int], room: int) -> list[tuple[str, Role]]:
    """Return a block for each rank, or for each group of ranks if there is no room for all."""
    times = [_time_of(state) for state in ranks]
    greatest = max((time for time in times if time is not None), default=0.0)
    blocks: list[tuple[str, Role]] = []
    for place in range(room):
        group = range(place * len(ranks) // room, (place + 1) * len(ranks) // room)
        known = [time for index in group if (time := times[index]) is not None]
        is_marked = any(ranks[index].rank in marked for index in group)
        is_gone = any(not ranks[index].is_live for index in group)
        block = _block(max(known) / greatest) if known and greatest > 0 else _UNKNOWN
        blocks.append(("✕" if is_gone else block, "bad" if is_marked or is_gone else "spark"))
    return blocks


def _time_of(state: RankState) -> float | None:
    return state.step_s if state.before_backward_s is None else state.before_backward_s


def _block(part: float) -> str:
    return _BLOCKS[min(len(_BLOCKS) - 1, int(part * len(_BLOCKS)))]


def _order(reasons: dict[int, tuple[str, ...]]) -> list[int]:
    """Return the ranks that stand out; ranks that stand still come first."""
    return sorted(reasons, key=lambda rank: (not reasons[rank][0].startswith("no step"), rank))


def _summary(states: RankStates, reasons: dict[int, tuple[str, ...]]) -> str:
    if reasons:
        first = _order(reasons)[0]
        others = len(reasons) - 1
        more = f" (and {counted(others, 'other rank')})" if others else ""
        return _rank_in_words(first, reasons[first]) + more
    gone = [str(state.rank) for state in states.ranks if not state.is_live]
    if gone:
        return f"ended: {', '.join(gone[:8])}"
    step_s = median_of(states.ranks, "step_s")
    time = "" if step_s is None else f", {step_s * 1000:,.3g} ms for a step"
    return f"{counted(states.count, 'rank')}, none stands out{time}"


def _rank_in_words(rank: int, reasons: tuple[str, ...]) -> str:
    return printable(f"rank {rank}: {'; '.join(reasons)}")
