"""Which ranks of a run stand out, and why: one definition for hub, terminal UI and command line."""

# ruff: noqa: RUF001 - the sign of multiplication is meant

import statistics
from collections import Counter
from collections.abc import Iterable

from gradscope.protocol.stream import RankState

__all__ = ["STILL_S", "in_words_of_place", "median_of", "standing_out"]

STILL_S = 5.0
"""A rank stands still if no step of it has ended for this long, in seconds, and for ten of its usual steps."""

_PLACES_S = 8.0
_USUAL_STEPS = 10.0
_SLOWER = 1.5
_LEAST_S = 0.005
_APART = 4.0


def standing_out(states: Iterable[RankState]) -> dict[int, tuple[str, ...]]:
    """Return the reasons by rank, the gravest first. A rank that does not stand out is absent.

    If all ranks stand still, as in a collective operation that one has not entered, only those stand out that are
    elsewhere than most; all of them, if none of the places has most.
    """
    ranks = list(states)
    still = _still(ranks)
    found = {}
    for state in ranks:
        reasons = [*([_still_in_words(state)] if state.rank in still else []), *_numbers(state, ranks)]
        if reasons:
            found[state.rank] = tuple(reasons)
    return found


def median_of(ranks: Iterable[RankState], name: str) -> float | None:
    """Return the median of a number over the ranks that have it; None if none has."""
    known = [value for each in ranks if (value := getattr(each, name)) is not None]
    return statistics.median(known) if known else None


def in_words_of_place(state: RankState) -> str:
    """Return where the training thread of a rank is, as text; empty if it is not known."""
    if state.layer:
        return f"in layer {state.layer} ({state.place})"
    return f"in {state.place}" if state.place else ""


def _still(ranks: list[RankState]) -> set[int]:
    still = [state for state in ranks if state.is_live and _is_still(state)]
    live = [state for state in ranks if state.is_live]
    if len(live) < 2 or len(still) < len(live):
        return {state.rank for state in still}
    if any(not state.place for state in still) and min(s.still_s or 0.0 for s in still) < _PLACES_S:
        return set()  # the next heartbeats say where the others are
    places = Counter((state.step, state.layer, state.place) for state in still)
    (_, most), *others = places.most_common()
    if not others or others[0][1] == most:
        return {state.rank for state in still}
    usual = places.most_common(1)[0][0]
    return {s.rank for s in still if (s.step, s.layer, s.place) != usual}


def _is_still(state: RankState) -> bool:
    if state.still_s is None or state.place.startswith("paused"):
        return False
    return state.still_s >= max(STILL_S, _USUAL_STEPS * (state.step_s or 0.0))


def _still_in_words(state: RankState) -> str:
    last = "" if state.step is None else f"; its last step was {state.step:,}"
    place = in_words_of_place(state) or "where it is now is not known"
    return f"no step for {state.still_s or 0.0:.0f} s, {place}{last}"


def _numbers(state: RankState, ranks: list[RankState]) -> Iterable[str]:
    for name, words in (("before_backward_s", "until its backward"), ("step_s", "for a step")):
        own, median = getattr(state, name), median_of(ranks, name)
        if own is not None and median and own > _SLOWER * median and own - median > _LEAST_S:
            yield f"{own * 1000:,.0f} ms {words}, {own / median:.1f} × the median of the ranks"
    if state.nonfinite and not median_of(ranks, "nonfinite"):
        yield f"{state.nonfinite:,} elements are NaN or infinite, none in most ranks"
    ratio = state.differs_by
    if ratio is not None and not 1 / _APART <= ratio <= _APART:
        yield f"{state.differs_at} is {ratio:.3g} × the median of the ranks"
