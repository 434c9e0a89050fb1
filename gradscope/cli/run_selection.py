"""Which run a command means: by name, or the only one that is live."""

import difflib
from collections.abc import Iterable, Sequence

from gradscope.errors import NothingToConnectError
from gradscope.protocol import RunInfo

__all__ = ["find_run", "live_names", "names", "only_live_run"]


def names(runs: Iterable[RunInfo]) -> list[str]:
    """Return the names of runs, each once, in the order of their first rank."""
    return list(dict.fromkeys(info.run for info in runs))


def live_names(runs: Iterable[RunInfo]) -> list[str]:
    """Return the names of the runs of which at least one rank lives."""
    return names(info for info in runs if info.is_live)


def find_run(name: str, runs: Sequence[RunInfo]) -> str:
    """Return `name` when the hub knows it. Raises NothingToConnectError with the near names else."""
    known = names(runs)
    if name in known:
        return name
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"near it: {', '.join(near)}" if near else f"there are: {', '.join(known) or 'none'}"
    raise NothingToConnectError(f"there is no run {name!r}; {hint}. `gradscope ls` lists them all")


def only_live_run(runs: Sequence[RunInfo]) -> str:
    """Return the name of the only live run. Raises NothingToConnectError for none and for more."""
    live = live_names(runs)
    if not live:
        raise NothingToConnectError(NOTHING_LIVE)
    if len(live) > 1:
        raise NothingToConnectError(
            f"{len(live)} runs are live: {', '.join(live)}; say which one: gradscope watch {live[0]}"
        )
    return live[0]


NOTHING_LIVE = (
    "no run is live; start one with `gradscope demo`, or with gradscope.attach(model) in your training"
)
