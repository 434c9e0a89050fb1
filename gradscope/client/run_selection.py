"""Selects a run by name, or the only live run."""

import difflib
from collections.abc import Iterable, Sequence

from gradscope.errors import NothingToConnectError
from gradscope.protocol import RunInfo

__all__ = ["end_of", "find_run", "live_runs", "only_live_run"]


def live_runs(runs: Iterable[RunInfo]) -> list[str]:
    """Return the names of the runs with at least one live rank, in order and without duplicates."""
    return list(dict.fromkeys(info.run for info in runs if info.is_live))


def end_of(ranks: Sequence[RunInfo]) -> RunInfo:
    """Return the rank that says how its run ended: the first one that failed, otherwise the first one."""
    failed = [info for info in ranks if info.has_failed]
    return min(failed, key=lambda info: info.last_message_s, default=ranks[0])


def only_live_run(runs: Iterable[RunInfo]) -> str:
    """Return the only live run. Raises NothingToConnectError if there are none or several."""
    live = live_runs(runs)
    if len(live) == 1:
        return live[0]
    if not live:
        raise NothingToConnectError(
            "no run is live; start one with: gradscope run train.py, or: gradscope demo"
        )
    raise NothingToConnectError(f"{len(live)} runs are live, name one of them: {', '.join(live)}")


def find_run(name: str, runs: Sequence[RunInfo]) -> str:
    """Return `name` if the hub knows that run. Otherwise raise NothingToConnectError with similar names."""
    known = list(dict.fromkeys(info.run for info in runs))
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"similar names: {', '.join(near)}" if near else f"known runs: {', '.join(known) or 'none'}"
    raise NothingToConnectError(f"there is no run {name!r}; {hint}. `gradscope ls` lists all runs")
